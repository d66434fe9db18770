"""Decoding processes (no torch in them): shared buffers, messages, and who decodes which tile."""
