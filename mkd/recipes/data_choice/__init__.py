"""Recipes that choose data: tiles to label next, and the intermediate domain."""
