"""Semi-supervised formulas: entropy filters and the EMA of the weights."""
