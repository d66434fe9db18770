"""The commands of `python -m shards`, one file each."""
