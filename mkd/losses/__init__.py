"""Losses of the method: tensors in, tensors out."""
