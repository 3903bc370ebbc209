"""What is created and kept in memory: objects by identifier, and the bytes of files."""
