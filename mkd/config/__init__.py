"""Typed configs: the schema, how it is loaded, what is checked before any data is opened."""
