"""Benchmark of packing and loading: our shards beside webdataset, litdata and mosaicml-streaming."""
