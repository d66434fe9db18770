"""Procedural landscapes with exact labels: the data of the demo and of experiments without downloads."""
