"""Benchmark of many ranks: steps measured on gloo ranks here, and an upper bound for named GPU machines."""
