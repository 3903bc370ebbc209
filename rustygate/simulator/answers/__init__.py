"""What the model says: text, values of JSON schemas, tool calls, and log probabilities."""
