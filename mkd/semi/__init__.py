"""Formulas of the semi-supervised stage: entropy filters of pseudo-labels and the EMA of the weights."""
