"""Ranks, jobs, servers and a cluster that tests start and kill."""
