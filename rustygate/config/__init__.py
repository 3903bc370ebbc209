"""The configuration: every setting with its default, how it is loaded, and how it is described.

How the settings are used is not known here.
"""

from rustygate.config.clients_file import read_clients_file
from rustygate.config.description import (
    Variable,
    describe,
    describe_limits,
    exposure_warning,
    variables,
)
from rustygate.config.kinds import UNIX_PREFIX
from rustygate.config.loading import ConfigError, forget_secrets, load
from rustygate.config.masking import mask, mask_credentials
from rustygate.config.settings import Settings

__all__ = [
    "UNIX_PREFIX",
    "ConfigError",
    "Settings",
    "Variable",
    "describe",
    "describe_limits",
    "exposure_warning",
    "forget_secrets",
    "load",
    "mask",
    "mask_credentials",
    "read_clients_file",
    "variables",
]
