"""What commands read settings from, and what stands in for them where none are needed."""

from pathlib import Path

from rustygate.config import ADMIN_KEY_FILE, KEY, KEY_FILE, PROXIES, TRUST

DOTENV = Path(".env")

# For commands that need no key, in place of one, whatever the environment or `.env` holds.
WITHOUT_KEY = {KEY: "sk-made-up-no-key-is-needed", KEY_FILE: "", ADMIN_KEY_FILE: ""}

# The demonstration's upstream is on loopback: no proxy is on the way, and nobody to be trusted.
DIRECT = {
    **{spelt: "" for name in PROXIES for spelt in (name, name.lower())},
    **dict.fromkeys(TRUST, ""),
}
