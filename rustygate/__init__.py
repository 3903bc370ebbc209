"""RustyGate: a small daemon between apps and the OpenAI API."""

import os

# frozenlist's compiled module loads the C++ runtime, which takes 1.1 MB. The gate uses the lists
# at its start only.
os.environ.setdefault("FROZENLIST_NO_EXTENSIONS", "1")

__version__ = "0.1.0"
