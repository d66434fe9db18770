"""Model folders: what every stage writes and the next stage, the teacher, evaluate and predict read."""
