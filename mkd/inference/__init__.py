"""A trained model applied: evaluation over a data set, and maps of rasters of any size."""
