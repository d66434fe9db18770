"""Spatial splits: blocks go to train, val or test, and tiles that touch another part are left out."""
