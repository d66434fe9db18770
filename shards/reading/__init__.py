"""Shards read back: checks of their content, pixel statistics, contact sheets."""
