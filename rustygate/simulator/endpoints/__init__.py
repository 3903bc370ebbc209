"""The endpoints, one module per kind; `generation` handles every request to a model."""
