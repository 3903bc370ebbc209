"""Text that strangers chose, such as the names of clients and models, as the page shows it."""

# A longer text is cut. No real name is longer.
TEXT_LIMIT = 200


def label(text: str) -> str:
    """A text as a label: not too long, and without lone surrogates, which UTF-8 cannot encode."""
    return text[:TEXT_LIMIT].encode(errors="replace").decode()
