"""A connection to one endpoint: heartbeat, sender, receivers, and the events that they report."""
