"""The operating system's side: the service manager, TLS."""
