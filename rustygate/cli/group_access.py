"""Whether the Redis of a group serves this gate; for `serve` and `check`."""

import asyncio
from collections.abc import Iterator

from rustygate.admission.group.redis_probe import RedisServer, probe
from rustygate.admission.group.store import StoreError, StoreRefused, StoreUnavailable
from rustygate.cli.errors import CommandError
from rustygate.config import Settings, mask_redis_url, names
from rustygate.core.plural import counted

# A gate starts without its group rather than late.
_START_LIMIT_S = 1.0
_CHECK_LIMIT_S = 3.0

_BAD_CONFIGURATION = 2


async def refuse_to_start(settings: Settings) -> None:
    """Raises CommandError if the group's Redis will never serve this gate.

    If it is not up yet, the gate serves alone until it is.
    """
    try:
        await _probe(settings, _START_LIMIT_S)
    except StoreRefused as error:
        raise _problem(settings, error) from error
    except StoreError:
        return


def describe_group(settings: Settings) -> Iterator[str]:
    """A few lines about the server at REDIS_URL. Raises CommandError if it cannot be used."""
    try:
        server = asyncio.run(_probe(settings, _CHECK_LIMIT_S))
    except StoreError as error:
        raise _problem(settings, error) from error
    yield f"{server}; a call takes {server.latency_s * 1000:.2f} ms"
    yield counted(server.members, "member")
    if server.is_too_old:
        yield "this version is older than 6.2, the oldest one tested"


async def _probe(settings: Settings, limit_s: float) -> RedisServer:
    try:
        async with asyncio.timeout(limit_s):
            return await probe(settings)
    except TimeoutError:
        raise StoreUnavailable(f"no answer within {limit_s:g} s") from None


def _problem(settings: Settings, error: StoreError) -> CommandError:
    shown = mask_redis_url(settings.redis_url or "")
    return CommandError(
        f"{names.REDIS_URL}={shown}: expected a Redis or Valkey that serves this gate ({error})",
        exit_code=_BAD_CONFIGURATION,
    )
