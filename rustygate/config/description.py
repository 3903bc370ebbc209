"""The configuration in words: for the documentation, for `rustygate check`, and for warnings."""

import re
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from math import ceil
from typing import Any

from rustygate.config.kinds import NONE, Kind
from rustygate.config.loading import Configuration
from rustygate.config.names import SECRET_FILES
from rustygate.config.settings import Settings, kind_of, meaning_of, variable_of
from rustygate.core.clients import Client, SpendingLimits
from rustygate.core.plural import counted
from rustygate.core.price_list import PER_MTOK, ModelPrice


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
        kind = kind_of(setting)
        default = "required" if required else kind.fallback or _written(kind, setting.default)
        yield Variable(variable_of(setting), default, meaning_of(setting))


def describe(settings: Settings) -> Iterator[tuple[str, str]]:
    """Each variable with its value in force; secrets are masked."""
    for setting in fields(Settings):
        value = getattr(settings, setting.name)
        yield variable_of(setting), _written(kind_of(setting), value)


def assignments(loaded: Configuration) -> Iterator[str]:
    """Each setting as a line of a `.env` file, with the source of its value as a comment.

    A line that could not be read back, such as that of a masked secret, is a comment as a whole.
    """
    given = {name: loaded.sources.get(name, "default") for name, _ in describe(loaded.settings)}
    for secret, file in SECRET_FILES.items():
        if file in loaded.sources:
            given[secret] = file
        elif file in loaded.variables:
            given[secret] = "systemd credential"
    for setting in fields(Settings):
        name, value = variable_of(setting), getattr(loaded.settings, setting.name)
        kind, source = kind_of(setting), given[variable_of(setting)]
        if _is_readable(kind, value) and source != SECRET_FILES.get(name):
            yield f"{name}={_quoted(_written(kind, value))}  # {source}"
        else:
            yield f"# {name}={_written(kind, value)}  # {source}"
        if source == SECRET_FILES.get(name):
            yield f"{source}={_quoted(loaded.variables[source])}  # {loaded.sources[source]}"


def _is_readable(kind: Kind, value: Any) -> bool:
    """Whether the loader reads back the written value."""
    if value is None:
        return kind.unset != NONE
    return kind.redact(str(value)) == str(value)


def _quoted(text: str) -> str:
    """A value as a `.env` file needs it."""
    if re.fullmatch(r"[^\s'\"#\\$`]*", text):
        return text
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def describe_client(client: Client) -> str:
    """A client's share and its own limits, in one line."""
    limits = client.limits
    parts = [f"weight {client.weight:g}, class {client.priority} at best"]
    rate = limits.requests_per_second
    if rate is not None:
        burst = limits.burst or max(1, ceil(rate))
        parts.append(f"{counted(rate, 'request', 'g')} per second, {burst} at once")
    if limits.tokens_per_minute is not None:
        parts.append(f"{counted(limits.tokens_per_minute, 'token')} per minute")
    if limits.concurrency is not None:
        parts.append(f"{counted(limits.concurrency, 'exchange')} in flight")
    parts += _describe_spending(client.spending)
    if client.models:
        parts.append(f"models {', '.join(client.models)}")
    return f"{client.name}: {'; '.join(parts)}"


def _describe_spending(limits: SpendingLimits) -> Iterator[str]:
    """The budgets of a client: `5,000 tokens per day`, `$20.00 per month`."""
    for each in fields(limits):
        limit = getattr(limits, each.name)
        if limit is not None:
            unit, _, period = each.name.partition("_")
            amount = counted(limit, "token", ",") if unit == "tokens" else f"${limit:,.2f}"
            yield f"{amount} {period.replace('_', ' ')}"


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
        yield f"in flight: {counted(settings.concurrency_limit, 'exchange')}"
    yield "each model's requests and tokens per minute: as upstream's responses report them"
    yield (
        f"waiting: {counted(settings.queue_limit, 'request')}, each for "
        f"{settings.rate_limit_timeout:g} s or its client's own timeout, whichever is shorter"
    )


def describe_price(name: str, price: ModelPrice) -> str:
    """A model's own price, or that of all models that match a pattern."""
    rate = price.rate(0, "")
    usd_in, cached, out = (each / PER_MTOK for each in (rate.input, rate.cached, rate.output))
    return f"{name}: input {usd_in:g}, cached input {cached:g}, output {out:g}"


def _written(kind: Kind, value: Any) -> str:
    """A value as it would be written in its variable."""
    if value is None:
        return kind.unset
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value).removesuffix(".0") if isinstance(value, float) else kind.redact(str(value))
