"""Pseudo-labels on their way to a step: stream, exchange over ranks, monitor, audit log."""
