"""The parts of scripts/bench.py: upstream, load clients, floor, peers, report, charts."""
