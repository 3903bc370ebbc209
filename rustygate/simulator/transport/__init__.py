"""Reading request bodies, and sending responses at their pace and with their faults."""
