"""Benchmark of the teacher service: against a bare forward pass, and how many teachers some students need."""
