"""Configs to objects: the only floor that knows both."""
