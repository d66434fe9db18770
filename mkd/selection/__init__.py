"""Which tiles to label next: formulas over features, places and probabilities."""
