"""Training: steps, one loop, checkpoints, journal."""
