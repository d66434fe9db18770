"""Whole training steps, measured: the product's own runs under a meter, beside a plain loop written from the paper."""
