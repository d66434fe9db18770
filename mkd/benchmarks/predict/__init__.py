"""Maps, measured: the product's own command beside the bare forward pass and a plain sliding window."""
