"""What operators see of the gate: the log, metrics and traces."""
