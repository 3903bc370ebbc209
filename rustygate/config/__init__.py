"""The settings: every variable, every default, and how they are loaded."""

from rustygate.config.clients_file import read_clients_file
from rustygate.config.description import EXPOSED, Variable, describe, limits, variables
from rustygate.config.kinds import ADMIN_KEY_FILE, KEY, KEY_FILE, UNIX
from rustygate.config.loading import PROXIES, TRUST, ConfigError, forget_secrets, load
from rustygate.config.masking import mask, without_password
from rustygate.config.settings import Settings

__all__ = [
    "ADMIN_KEY_FILE",
    "EXPOSED",
    "KEY",
    "KEY_FILE",
    "PROXIES",
    "TRUST",
    "UNIX",
    "ConfigError",
    "Settings",
    "Variable",
    "describe",
    "forget_secrets",
    "limits",
    "load",
    "mask",
    "read_clients_file",
    "variables",
    "without_password",
]
