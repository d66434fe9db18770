"""Packing of imagery into WebDataset shards: pack, tile, split, info, verify (no torch here)."""
