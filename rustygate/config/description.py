"""The settings as documentation and `rustygate check` show them."""

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from typing import Any

from rustygate.config.kinds import Kind
from rustygate.config.masking import mask
from rustygate.config.settings import Settings, about

EXPOSED = (
    "BIND_ADDRESS={} lets other machines connect: whoever can is served, without a key of their "
    "own, and spends the upstream key; CLIENTS_FILE lets only those in who have one"
)


@dataclass(frozen=True, slots=True)
class Variable:
    """A setting as documentation shows it; `default` is in the variable's own words."""

    name: str
    default: str
    meaning: str


def variables() -> Iterator[Variable]:
    """All settings, in the order of the README's table."""
    for setting in fields(Settings):
        kind, meaning = about(setting)
        required = setting.default is MISSING
        default = "required" if required else _written(kind, setting.default)
        yield Variable(setting.name.upper(), default, meaning)


def describe(settings: Settings) -> Iterator[tuple[str, str]]:
    """Each variable with its value in force; secrets are masked."""
    for setting in fields(Settings):
        kind, _ = about(setting)
        yield setting.name.upper(), _written(kind, getattr(settings, setting.name))


def limits(settings: Settings) -> Iterator[str]:
    """Which limits are in force, in a sentence each."""
    if settings.rate_limit is None:
        yield (
            "requests: none of the gate's own; before a model's first answer, "
            f"{settings.rate_limit_burst} of its requests in flight"
        )
    else:
        yield (
            f"requests: {settings.rate_limit:g} a second over all models, after a quiet time "
            f"{settings.rate_limit_burst} at once"
        )
    if settings.tokens_per_minute is not None:
        yield f"tokens: {settings.tokens_per_minute} a minute over all models"
    if settings.concurrency_limit is not None:
        yield f"in flight: {settings.concurrency_limit} exchanges"
    yield "each model's requests and tokens a minute: what upstream's answers tell"
    yield (
        f"waiting: {settings.queue_limit} requests, each for {settings.rate_limit_timeout:g} s or "
        "as long as its client waits, whichever is less"
    )


def _written(kind: Kind, value: Any) -> str:
    """A value as its variable would say it."""
    if value is None:
        return kind.unset
    if kind.secret:
        return mask(value)
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value).removesuffix(".0") if isinstance(value, float) else kind.hide(str(value))
