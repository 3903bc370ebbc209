"""RustyGate: a small daemon between apps and the OpenAI API."""

__version__ = "0.1.0"
