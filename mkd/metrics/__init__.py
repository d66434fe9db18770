"""Metrics: one summed confusion matrix, and what a model costs."""
