"""Shards read back: members compared with their CRC-32, decoded pixels, whole checks, contact sheets."""
