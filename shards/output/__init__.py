"""Output of a build: shards with their records, `build.json`, the merged index, and the lock of the folder.

The order of writing makes a build resumable: lock, `build.json`, each shard and then its record, `index.json` last.
"""
