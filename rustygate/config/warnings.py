"""Warnings: settings that are valid, but probably not what was meant."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from rustygate.config import names
from rustygate.config.masking import show_rejected
from rustygate.config.no_proxy import malformed_blocks
from rustygate.config.settings import DEFAULT_GROUP, Settings

_OPENAI, _OPENAI_PATH = "api.openai.com", "/v1"


def settings_warnings(settings: Settings) -> Iterator[str]:
    """One line for each warning."""
    warnings = (
        exposure_warning(settings),
        base_url_warning(settings),
        no_proxy_warning(settings),
        group_warning(settings),
    )
    for warning in warnings:
        if warning is not None:
            yield warning


def exposure_warning(settings: Settings) -> str | None:
    """A warning if clients on other machines may use the upstream key without their own."""
    if settings.clients_file is not None or not settings.exposed:
        return None
    return (
        f"BIND_ADDRESS={settings.bind_address} lets other machines connect: any client that can "
        "connect is served without a key of its own and uses the upstream key; set "
        "CLIENTS_FILE to require client keys"
    )


def base_url_warning(settings: Settings) -> str | None:
    """A warning if OpenAI's base URL has another path than its own, which answers only 404s."""
    url = urlsplit(settings.openai_base_url)
    host = url.hostname or ""
    if url.path == _OPENAI_PATH or not (host == _OPENAI or host.endswith(f".{_OPENAI}")):
        return None
    wrong = f"the path {url.path}" if url.path else f"no {_OPENAI_PATH}"
    right = f"{url.scheme}://{url.netloc}{_OPENAI_PATH}"
    return (
        f"{names.BASE_URL}={settings.openai_base_url} has {wrong}: /v1/X here is sent to "
        f"{url.path}/X there, which does not exist; set {names.BASE_URL}={right}"
    )


def no_proxy_warning(settings: Settings) -> str | None:
    """A warning if entries of NO_PROXY match nothing."""
    malformed = malformed_blocks(settings.no_proxy or "")
    if not malformed:
        return None
    shown = ", ".join(map(show_rejected, malformed))
    return (
        f"NO_PROXY: {shown}: expected host names, IP addresses or CIDR blocks such as 10.0.0.0/8; "
        "such an entry has no effect"
    )


def group_warning(settings: Settings) -> str | None:
    """A warning if a gate is meant to share its quota, but has no Redis to do so."""
    if settings.redis_url is not None or settings.gate_group == DEFAULT_GROUP:
        return None
    return (
        f"{names.GATE_GROUP}={settings.gate_group} has no effect without {names.REDIS_URL}: this "
        "gate shares its quota with no other"
    )


def misspelt_warning(name: str, meant: str, source: str) -> str:
    """A warning about a variable that was probably meant to be a setting."""
    place = ".env" if source == ".env" else f"the {source}"
    return f"{name}: did you mean {meant}? It is set in {place} and has no effect"
