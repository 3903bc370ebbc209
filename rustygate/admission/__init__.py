"""The gate: budgets, the queues in front of them, and the way through."""
