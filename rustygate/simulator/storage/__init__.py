"""In-memory storage: created objects by identifier, and the contents of uploaded files."""
