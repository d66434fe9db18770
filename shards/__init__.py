"""The shard CLI (`python -m shards`): imagery to WebDataset shards with an index, and back to look at them.

`commands/` holds one function a CLI word, `inputs/` reads class files, images and rasters, `output/` writes shards and
indexes, `splitting/` divides tiles by place, `reading/` decodes and checks shards. Nothing here imports torch.
"""
