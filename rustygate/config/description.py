"""The configuration in words: for the documentation, for `rustygate check`, and for warnings."""

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from typing import Any

from rustygate.config.kinds import Kind
from rustygate.config.masking import mask
from rustygate.config.settings import Settings, kind_of, meaning_of, variable_of


@dataclass(frozen=True, slots=True)
class Variable:
    """A setting as documented; `default` is written as the variable's value would be."""

    name: str
    default: str
    meaning: str


def variables() -> Iterator[Variable]:
    """All settings, in the order of the table in docs/settings.md."""
    for setting in fields(Settings):
        required = setting.default is MISSING
        default = "required" if required else _written(kind_of(setting), setting.default)
        yield Variable(variable_of(setting), default, meaning_of(setting))


def describe(settings: Settings) -> Iterator[tuple[str, str]]:
    """Each variable with its value in force; secrets are masked."""
    for setting in fields(Settings):
        value = getattr(settings, setting.name)
        yield variable_of(setting), _written(kind_of(setting), value)


def describe_limits(settings: Settings) -> Iterator[str]:
    """The limits in force, one sentence each."""
    if settings.rate_limit is None:
        yield (
            "requests: only the limits that upstream reports; until a model's first response, "
            f"{settings.rate_limit_burst} of its requests in flight"
        )
    else:
        yield (
            f"requests: {settings.rate_limit:g} per second over all models, "
            f"{settings.rate_limit_burst} at once after an idle period"
        )
    if settings.tokens_per_minute is not None:
        yield f"tokens: {settings.tokens_per_minute} per minute over all models"
    if settings.concurrency_limit is not None:
        yield f"in flight: {_count(settings.concurrency_limit, 'exchange')}"
    yield "each model's requests and tokens per minute: as upstream's responses report them"
    yield (
        f"waiting: {_count(settings.queue_limit, 'request')}, each for "
        f"{settings.rate_limit_timeout:g} s or its client's own timeout, whichever is shorter"
    )


def exposure_warning(settings: Settings) -> str | None:
    """A warning if clients on other machines may spend the upstream key without one of theirs."""
    if settings.clients_file is not None or not settings.exposed:
        return None
    return (
        f"BIND_ADDRESS={settings.bind_address} lets other machines connect: any client that can "
        "connect is served without a key of its own and spends the upstream key; set "
        "CLIENTS_FILE to require client keys"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _written(kind: Kind, value: Any) -> str:
    """A value as it would be written in its variable."""
    if value is None:
        return kind.unset
    if kind.secret:
        return mask(value)
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value).removesuffix(".0") if isinstance(value, float) else kind.redact(str(value))
