"""What a request may cost, read from any body."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.request_facts import NO_FACTS, RequestFacts, model_in_query, read_request_facts

CHAT_PATH = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("body", "facts"),
    [
        (b'{"model":"gpt-4","stream":true}', RequestFacts("gpt-4", True, 0, None)),
        (b'{"model":"gpt-4","messages":[{"model":"x"}]}', RequestFacts("gpt-4", False, 0, None)),
        (b'{"model":"m","prompt":"12345","max_tokens":9,"n":2}', RequestFacts("m", False, 5, 18)),
        (b'{"stream":1}', RequestFacts(output_cap=None)),
        (b'{"model":["a"]}', RequestFacts(output_cap=None)),
        (b'{"model":""}', RequestFacts(output_cap=None)),
        (b'{"model":"' + b"x" * 129 + b'"}', RequestFacts(output_cap=None)),
        (b'{"model":"\xff"}', RequestFacts(output_cap=None)),
        (b'{"seed":' + b"9" * 5000 + b"}", RequestFacts(output_cap=None)),
        (b"[]", RequestFacts(None, False, 2, None, readable=False)),
        (b"not json", RequestFacts(None, False, 8, None, readable=False)),
        (b'{"model":"gpt-4"', RequestFacts(None, False, 16, None, readable=False)),
        (b"", NO_FACTS),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_facts_of_a_request(body: bytes, facts: RequestFacts) -> None:
    assert read_request_facts(body, CHAT_PATH) == facts
    assert read_request_facts(body) == facts


@pytest.mark.parametrize(
    ("path", "output_cap"),
    [
        ("/v1/chat/completions", None),
        ("/v1/completions", None),
        ("/v1/responses", None),
        ("/v1/embeddings", 0),
        ("/v1/moderations", 0),
        ("/v1/audio/speech", 0),
        ("/v1/responses/resp_1/cancel", 0),
        (None, None),
    ],
)
def test_only_text_generation_has_an_output(path: str | None, output_cap: int | None) -> None:
    assert read_request_facts(b'{"input":"four"}', path) == RequestFacts(
        None, False, 4, output_cap
    )
    assert read_request_facts(b"four", path) == RequestFacts(
        None, False, 4, output_cap, readable=False
    )


def test_cap_counts_on_any_path() -> None:
    assert read_request_facts(b'{"max_tokens":5}', "/v1/odd").output_cap == 5


@pytest.mark.parametrize(
    ("facts", "cost"),
    [
        (NO_FACTS, 0),
        (RequestFacts(input_characters=1), 1),
        (RequestFacts(input_characters=8), 2),
        (RequestFacts(input_characters=9, output_cap=100), 103),
        (RequestFacts(input_characters=9, output_cap=None), 503),
    ],
)
def test_cost_is_a_quarter_of_the_input_rounded_up_plus_the_output(
    facts: RequestFacts, cost: int
) -> None:
    assert facts.cost(typical_output=500) == cost


@given(st.binary(max_size=300))
def test_any_body_has_facts(body: bytes) -> None:
    assert read_request_facts(body).cost(0) >= 0


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/v1/realtime?model=gpt-realtime", "gpt-realtime"),
        ("/v1/realtime?a=b&model=ft%3Ax+y", "ft:x y"),
        ("/v1/realtime?model=x&model=z", None),
        ("/v1/realtime?model=x&model=", None),
        ("/v1/realtime?model=", None),
        ("/v1/realtime?model=" + "x" * 129, None),
        ("/v1/realtime?call_id=rtc_1", None),
        ("/v1/realtime", None),
        ("/v1/realtime?%ff=%zz&model=%ff", "\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_model_in_the_query(target: str, expected: str | None) -> None:
    assert model_in_query(target) == expected
