"""Benchmark of many ranks: what a step sends and waits for, and a roofline for larger machines."""
