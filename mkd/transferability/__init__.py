"""How well a domain prepares for another: scores, distances and a linear probe, formulas over features."""
