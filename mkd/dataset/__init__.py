"""A data set as it lies in a folder: index, shard records, tiles by number, and prefetched byte ranges."""
