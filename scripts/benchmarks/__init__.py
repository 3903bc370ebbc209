"""What scripts/bench.py is made of: an upstream, loads, the floor, the peers, the report."""
