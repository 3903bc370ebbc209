"""The live page about the gate: its state, its event stream and its static files."""
