"""Where commands read settings from, and overrides for commands that do not need all of them."""

from pathlib import Path

from rustygate.config import names

DOTENV = Path(".env")

# Replaces the keys for commands that need none, whatever the environment or `.env` contains. They
# belong to no group, so they take nothing from a shared quota, and leave no data behind.
WITHOUT_KEYS = {
    names.API_KEY: "sk-placeholder-no-key-is-needed",
    names.API_KEY_FILE: "",
    names.ADMIN_KEY_FILE: "",
    names.REDIS_URL: "",
    names.REDIS_URL_FILE: "",
    names.DATA_DIR: "",
    names.STATE_DIRECTORY: "",
}

# For commands that send the admin key and no other one. The user may not be allowed to read the
# files of clients and prices.
ADMIN_KEY_ONLY = {
    names.API_KEY: WITHOUT_KEYS[names.API_KEY],
    **dict.fromkeys((names.API_KEY_FILE, names.CLIENTS_FILE, names.PRICES_FILE), ""),
}

# The demo's upstream is on loopback: it is reached without a proxy and without TLS.
WITHOUT_PROXY_OR_CA = {
    **{spelling: "" for name in names.PROXY_VARIABLES for spelling in (name, name.lower())},
    **dict.fromkeys(names.CA_VARIABLES, ""),
}
