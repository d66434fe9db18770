"""Files on a disk and in object stores.

- `Folder` is one folder, a path or an fsspec URL: listings, ranges, atomic writes, creation by one of several writers.
- `retry_policy` tells errors that may pass from permanent ones, retries the former and words the latter.
- `PresignedRanges` reads ranges of S3 objects over kept connections; where it cannot, s3fs reads them.
- `RemoteFile` is a remote file as a seekable file object; `DirectFile` writes large local files past the page cache.
"""
