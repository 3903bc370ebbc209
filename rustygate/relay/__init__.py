"""Relaying upstream's response to the client: as a whole, as a stream, or as a WebSocket."""
