"""The configuration: every setting with its default, how it is loaded, and how it is described.

How the settings are used is not known here.
"""

from rustygate.config.clients_file import (
    append_to_clients_file,
    modification_time,
    read_clients_file,
)
from rustygate.config.description import (
    Variable,
    assignments,
    describe,
    describe_client,
    describe_limits,
    describe_price,
    variables,
)
from rustygate.config.kinds import UNIX_PREFIX
from rustygate.config.loading import (
    ConfigError,
    Configuration,
    forget_secrets,
    load,
    load_configuration,
)
from rustygate.config.masking import mask, mask_credentials, mask_redis_url
from rustygate.config.prices_file import read_prices_file
from rustygate.config.settings import Settings
from rustygate.config.units import in_seconds, in_units
from rustygate.config.warnings import settings_warnings

__all__ = [
    "UNIX_PREFIX",
    "ConfigError",
    "Configuration",
    "Settings",
    "Variable",
    "append_to_clients_file",
    "assignments",
    "describe",
    "describe_client",
    "describe_limits",
    "describe_price",
    "forget_secrets",
    "in_seconds",
    "in_units",
    "load",
    "load_configuration",
    "mask",
    "mask_credentials",
    "mask_redis_url",
    "modification_time",
    "read_clients_file",
    "read_prices_file",
    "settings_warnings",
    "variables",
]
