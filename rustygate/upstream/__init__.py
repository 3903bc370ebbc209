"""Upstream's side: the HTTP client and its pool of connections."""
