"""RustyGate: a small daemon between apps and the OpenAI API."""

import os

# frozenlist's compiled module loads the C++ runtime, which takes 1.1 MB. After the start, aiohttp
# only reads the length of one such list per request, so the Python version is fast enough.
os.environ.setdefault("FROZENLIST_NO_EXTENSIONS", "1")

__version__ = "0.1.0"
