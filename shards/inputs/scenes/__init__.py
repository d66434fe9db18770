"""Orthomosaics: which there are, where they lie, and how they are cut."""
