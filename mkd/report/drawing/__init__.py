"""Figures and pictures of pages: curves, SVG and PNG, tiles and maps in colours."""
