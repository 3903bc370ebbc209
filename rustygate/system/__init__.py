"""Interfaces to the operating system: the service manager, and TLS."""
