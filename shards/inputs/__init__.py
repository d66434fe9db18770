"""What is packed: class files, image lists, rasters, masks and their encoding."""
