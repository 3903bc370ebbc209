"""One module per family of endpoints; `generation` charges and answers requests to a model."""
