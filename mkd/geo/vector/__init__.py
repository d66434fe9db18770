"""Vectors: class maps as polygons, and polygons as labels."""
