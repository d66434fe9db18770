"""A run as processes and files: checkpoints, journal, run lock, stop requests, start-up times."""
