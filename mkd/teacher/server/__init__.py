"""The service's side: Arrow Flight endpoint, batching of requests, memory budget, metrics."""
