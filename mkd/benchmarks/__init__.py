"""What `launch/throughput.py` measures: the network, data, teacher services and scaling, each beside its peers."""
