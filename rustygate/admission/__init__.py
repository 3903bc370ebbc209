"""The gate: budgets, and the queue in front of them."""
