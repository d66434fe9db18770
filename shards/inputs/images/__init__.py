"""Image files, and how they become members of a shard."""
