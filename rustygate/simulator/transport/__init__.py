"""How bodies are read and responses are sent, with pace and faults; HTTP and WebSocket."""
