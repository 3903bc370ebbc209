"""The record of a request: its headers for the client, its steps, and its id."""

import re

import pytest

from rustygate.core.headers import headers_in
from rustygate.exchange import MS, Exchange, new_id


def exchange(**fields: int | None) -> Exchange:
    return Exchange("a", "POST", "/v1/x", id="e-1", arrived=1000 * MS, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "queued", "upstream"),
    [
        ({}, "0.0", "0.0"),
        ({"queued": 12_345_678}, "12.3", "0.0"),
        ({"queued": 999_999, "sent": 5 * MS}, "1.0", "0.0"),
        ({"sent": 1010 * MS, "responded": 1230 * MS}, "0.0", "220.0"),
        ({"sent": 1300 * MS, "responded": 1230 * MS}, "0.0", "0.0"),
    ],
    ids=["new", "queued", "sent", "responded", "sent again"],
)
def test_headers_say_how_long_the_queue_and_upstream_took(
    fields: dict[str, int], queued: str, upstream: str
) -> None:
    record = exchange(attempts=2, **fields)
    assert record.headers() == [
        ("X-RustyGate-Id", "e-1"),
        ("X-RustyGate-Queued-Ms", str(fields.get("queued", 0) // MS)),
        ("X-RustyGate-Attempts", "2"),
        ("Server-Timing", f"queue;dur={queued}, upstream;dur={upstream}"),
    ]


def test_headers_of_a_request_that_still_waits_say_how_long_it_has_waited() -> None:
    headers = dict(headers_in(exchange(queued=MS).header_lines(queued=2500 * MS)))
    assert headers["X-RustyGate-Queued-Ms"] == "2500"
    assert headers["Server-Timing"] == "queue;dur=2500.0, upstream;dur=0.0"


@pytest.mark.parametrize(("instant", "ms"), [(None, None), (1000 * MS, 0), (1250 * MS - 1, 249)])
def test_times_count_from_the_arrival(instant: int | None, ms: int | None) -> None:
    assert exchange().ms_until(instant) == ms


def test_steps_are_kept_in_order_with_their_values() -> None:
    record = Exchange("a", "POST", "/v1/x")
    record.record_step("admitted", {"queued_ms": 3, "model": "m"})
    record.record_step("done", {})
    assert record.steps is not None
    first, second = record.steps
    assert re.fullmatch(r"\d{1,3} ms admitted queued_ms=3 model=m", first)
    assert re.fullmatch(r"\d{1,3} ms done", second)


def test_ids_are_unique() -> None:
    first, second = new_id(), new_id()
    prefix, number = first.split("-")
    assert second == f"{prefix}-{int(number, 16) + 1:x}"
