"""Own connections are recognized by both of their ends."""

from typing import Any

import pytest

from rustygate.core.own_connections import OwnConnections

GATE, CLIENT = ("127.0.0.1", 8080), ("127.0.0.1", 50_000)
GATE_6, CLIENT_6 = ("::1", 8080, 0, 0), ("::1", 50_000, 0, 0)
MAPPED_GATE, MAPPED_CLIENT = ("::ffff:127.0.0.1", 8080, 0, 0), ("::FFFF:127.0.0.1", 50_000, 0, 0)


@pytest.mark.parametrize(
    ("outgoing", "incoming"),
    [
        ((CLIENT, GATE), (GATE, CLIENT)),
        ((CLIENT_6, GATE_6), (GATE_6, CLIENT_6)),
        ((CLIENT, GATE), (MAPPED_GATE, MAPPED_CLIENT)),
        ((MAPPED_CLIENT, MAPPED_GATE), (GATE, CLIENT)),
    ],
    ids=["IPv4", "IPv6", "mapped at the gate", "mapped at upstream"],
)
def test_connection_that_comes_back_is_recognized(outgoing: Any, incoming: Any) -> None:
    own = OwnConnections()
    assert not own.includes(*incoming)
    own.add(*outgoing)
    assert own.includes(*incoming)
    own.discard(*outgoing)
    assert not own.includes(*incoming)
    own.discard(*outgoing)


@pytest.mark.parametrize(
    ("local", "remote"),
    [
        (CLIENT, GATE),
        (("127.0.0.1", 8081), CLIENT),
        (("127.0.0.2", 8080), CLIENT),
        (GATE, ("127.0.0.1", 50_001)),
        (GATE, ("127.0.0.2", 50_000)),
        ("/run/gate.sock", ""),
        (None, None),
        (None, CLIENT),
        (GATE, None),
    ],
)
def test_any_other_connection_is_not(local: Any, remote: Any) -> None:
    own = OwnConnections()
    own.add(CLIENT, GATE)
    own.add("/run/upstream.sock", "")
    own.add(None, GATE)
    assert not own.includes(local, remote)
    assert repr(own) == "<OwnConnections 1>"
