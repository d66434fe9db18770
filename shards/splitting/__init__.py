"""Which tile belongs to train, val or test: spatial blocks, neighbours, assignment."""
