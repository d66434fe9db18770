"""What several tests share: slow plain references, tiny networks and tiny data sets."""
