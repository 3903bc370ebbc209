"""Variables that are not settings, but look like misspelt ones.

Other programs have variables in the same environment, so a name must be very close to a setting's
to be reported.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from difflib import get_close_matches

from rustygate.config import names
from rustygate.config.settings import Settings, variable_of

_KNOWN = frozenset(
    {variable_of(each) for each in fields(Settings)}
    | set(names.SECRET_FILES.values())
    | {name.lower() for name in names.PROXY_VARIABLES}
)

_ENDINGS = tuple(f"_{name}" for name in _KNOWN)

# What other programs call a setting, and what the OpenAI SDKs called it in earlier releases.
_OTHER_NAMES = {
    "BIND_ADDR": names.BIND_ADDRESS,
    "OPENAI_API_BASE": names.BASE_URL,
    "OPENAI_API_BASE_URL": names.BASE_URL,
    "OPENAI_API_HOST": names.BASE_URL,
    "OPENAI_API_URL": names.BASE_URL,
    "OPENAI_BASE": names.BASE_URL,
    "OPENAI_HOST": names.BASE_URL,
    "OPENAI_URL": names.BASE_URL,
    "OPENAI_KEY": names.API_KEY,
    "OPENAI_TOKEN": names.API_KEY,
    "OPENAI_ORG": "OPENAI_ORG_ID",
    "OPENAI_ORGANIZATION": "OPENAI_ORG_ID",
    "OPENAI_ORGANIZATION_ID": "OPENAI_ORG_ID",
    "OPENAI_PROJECT": "OPENAI_PROJECT_ID",
    "CORS_ORIGINS": "CORS_ALLOW_ORIGINS",
    "TLS_CERT": names.TLS_CERT_FILE,
    "TLS_CERT_PATH": names.TLS_CERT_FILE,
    "TLS_KEY": names.TLS_KEY_FILE,
    "TLS_KEY_PATH": names.TLS_KEY_FILE,
}

# Set for other programs, although a letter or two would make them a setting.
_FOREIGN = ("FTP_PROXY", "ALL_PROXY", "SOCKS_PROXY", "OPENAI_ADMIN_KEY", "GENAI_API_KEY")
_FOREIGN_PREFIXES = ("OTEL_", "COMPOSE_", "DOCKER_", "npm_")

# Kubernetes and Docker set RUSTYGATE_PORT and the like for a service of the gate's name.
_PREFIX = "RUSTYGATE_"
_SERVICE_LINK = ("tcp://", "udp://")

# Of shorter names, another program's may be a letter away: PORTS.
_MIN_LENGTH = 6

# Of `difflib`. RATE_LIMTI has 0.90 in common with its setting, FTP_PROXY 0.84 with HTTP_PROXY.
_SIMILARITY = 0.86


def misspelt(variables: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Each name that looks like a setting's, with the setting that it looks like."""
    for name, value in variables.items():
        meant = None if name in _KNOWN else _meant(name, value)
        if meant is not None and not (name in _OTHER_NAMES and variables.get(meant)):
            yield name, meant


def _meant(name: str, value: str) -> str | None:
    upper = name.upper().replace("-", "_").replace(".", "_")
    if name.startswith(_FOREIGN_PREFIXES) or upper in _FOREIGN:
        return None
    if upper.startswith(_PREFIX) and not value.startswith(_SERVICE_LINK):
        upper = upper.removeprefix(_PREFIX)
        return upper if upper in _KNOWN else nearest(upper, _KNOWN)
    if upper in _KNOWN:
        return upper
    return _OTHER_NAMES.get(upper) or nearest(upper, _KNOWN)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that a misspelt one was meant to be, if that is plain.

    A known name with a word before it or a number behind it belongs to another program.
    """
    if len(name) < _MIN_LENGTH or name.rstrip("0123456789").rstrip("_") in _KNOWN:
        return None
    if name.endswith(_ENDINGS):
        return None
    return next(iter(get_close_matches(name, known, n=1, cutoff=_SIMILARITY)), None)
