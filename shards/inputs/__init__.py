"""Inputs of a build: class files, image lists, rasters and masks are read, checked and encoded as tiles."""
