"""Where a raster lies on Earth: coordinate systems, control points, footprints, areas."""
