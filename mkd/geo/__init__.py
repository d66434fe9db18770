"""Rasters on Earth without torch: GeoTIFF by windows, covers of windows, overlap-blend, class colours."""
