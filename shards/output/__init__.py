"""What is written: shards and records, the index, merging of parts, and the lock of the folder."""
