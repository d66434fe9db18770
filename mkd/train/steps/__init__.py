"""One training step of each stage: forward passes, named losses, their sum."""
