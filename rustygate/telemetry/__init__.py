"""What the gate tells of itself: ledger, log lines, metrics, traces."""
