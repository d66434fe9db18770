"""Labels of orthomosaics: rasters on the image grid or warped to it, and polygons."""
