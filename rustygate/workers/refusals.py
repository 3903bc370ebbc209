"""Refusals as messages: the gate's own errors, made in one process and sent by another."""

from collections.abc import Iterator
from typing import Any

from rustygate.errors import Refusal


def pack_refusal(refusal: Refusal) -> tuple[str, dict[str, Any]]:
    """The name of its class, and its values."""
    return type(refusal).__name__, vars(refusal)


def unpack_refusal(name: str, values: dict[str, Any]) -> Refusal:
    """The refusal that was packed."""
    kind = _KINDS[name]
    refusal = kind.__new__(kind)
    Refusal.__init__(refusal, values["message"])
    vars(refusal).update(values)
    return refusal


def _kinds(kind: type[Refusal]) -> Iterator[type[Refusal]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _kinds(each)


_KINDS = {kind.__name__: kind for kind in _kinds(Refusal)}
