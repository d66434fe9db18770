"""Files on disk and in object stores: fsspec folders, presigned range reads, direct I/O and when to retry."""
