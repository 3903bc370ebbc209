"""Relaying upstream's response to the client: in one write, as a stream, or as a WebSocket."""
