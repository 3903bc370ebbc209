"""Between the two sides: what upstream answers, on its way to the client."""
