"""Who may use the gate, and who may see the pages about it."""
