"""A data set in a folder: its index, its shards' records, and its tiles by number.

The reading chain, from files to pixels; none of it needs torch:

- `storage.folder.Folder` reads files and byte ranges, on a disk or behind a URL, and retries errors that pass.
- `DatasetIndex` is `index.json`: classes, counts and a `ShardInfo` for each shard, held in a `ShardList`.
- `ShardRecord` is the JSON file beside a shard: a `TileRecord` for each tile, a `Member` for each file of a tile.
- `RecordCache` finds the shard and the record of a sample.
- `LocalShards` reads open files; `RemoteShards` reads ranges, by a `Prefetcher` or from copies in a `ShardCache`.
- `TileSource` gives the encoded members of tiles by sample number, from either, with their CRC-32 checked.
- `codec` decodes one member; `TileDecoder` decodes tiles into given arrays, and replaces those that are damaged.
- `DatasetSpec` is what a process needs to open a `TileDecoder`: folder, index, labels or none, cache.
"""
