"""The price list: the costs are those that the genai-prices package computes."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from pathlib import Path

import pytest
from genai_prices import Usage, types
from genai_prices.data_snapshot import get_snapshot

from rustygate.config import Settings
from rustygate.core.price_list import PriceList
from rustygate.telemetry.usage.prices import describe_list, load_prices
from scripts import prices as script

OPENAI = "https://api.openai.com/v1"
DAYS = ("2024-01-01", "2025-06-09", "2025-06-10", "2026-08-20", "2026-08-21", "2026-11-28")
NANO = Decimal(10**9)

# Input, cached and output: around the borders of tiers, which are at 128k, 200k, 256k and 272k.
COUNTS = [
    *((0, 0, 0), (1, 0, 0), (1, 1, 1), (1000, 300, 77), (123_457, 0, 9_999)),
    *(
        (border + step, 1000, 500)
        for border in (128_000, 200_000, 256_000, 272_000)
        for step in (0, 1)
    ),
    *((999_999, 999_999, 0), (10_000_000, 123, 456_789)),
]


@cache
def price_list(base_url: str = OPENAI) -> PriceList:
    return load_prices(Settings(openai_api_key="sk-test", openai_base_url=base_url))


def provider(name: str) -> types.Provider:
    return next(each for each in get_snapshot().providers if each.id == name)


def names_in(clause: object) -> Iterator[str]:
    """Names that a clause matches, and some that differ a little."""
    for part in (*getattr(clause, "or_", ()), *getattr(clause, "and_", ())):
        yield from names_in(part)
    for kind in ("equals", "starts_with", "ends_with", "contains"):
        text = getattr(clause, kind, None)
        if text is not None:
            yield from (text, text.upper(), f"{text}-2026-11-28", f"{text}x", f"my-{text}")
    regex = getattr(clause, "regex", "")
    yield re.sub(r"\\d\{?\d?\}?", "7", regex).replace("\\", "").strip("^$")
    yield re.sub(r"\\d\{4\}-\\d\{2\}-\\d\{2\}", "2026-09-01", regex).replace("\\", "").strip("^$")


MODELS = [pytest.param(model, id=model.id) for model in provider("openai").models]


@pytest.mark.parametrize("model", MODELS)
def test_costs_are_those_of_genai_prices(model: types.ModelInfo) -> None:
    name = next(name for name in names_in(model.match) if model.is_match(name))
    price = price_list().find(name)
    if price is None:
        assert script._dated_prices(model) is None
        return
    for day in DAYS:
        noon = datetime.fromisoformat(f"{day}T12:00").replace(tzinfo=UTC)
        for tokens_in, cached, out in COUNTS:
            usage = Usage(input_tokens=tokens_in, cache_read_tokens=cached, output_tokens=out)
            expected = model.calc_price(
                usage, provider("openai"), genai_request_timestamp=noon
            ).total_price
            nano = price.cost_nano(tokens_in, cached, out, day)
            assert nano == (expected * NANO).quantize(Decimal(1), ROUND_HALF_UP), (day, tokens_in)


def test_tokens_written_to_the_cache_cost_what_genai_prices_says() -> None:
    model = next(each for each in provider("openai").models if each.id == "gpt-6-sol")
    usage = Usage(
        input_tokens=1000, cache_read_tokens=300, cache_write_tokens=200, output_tokens=50
    )
    expected = model.calc_price(usage, provider("openai")).total_price
    price = price_list().find("gpt-6-sol")
    assert price is not None
    assert price.cost_nano(1000, 300, 50, "2026-11-28", 200) == expected * NANO


@pytest.mark.parametrize("each", get_snapshot().providers, ids=lambda each: each.id)
def test_names_match_the_models_that_genai_prices_finds(each: types.Provider) -> None:
    if each.id in script.LEFT_OUT:
        return
    prices = price_list(example_url(each))
    # All models of all providers but OpenRouter, which has a thousand.
    for model in each.models[:: len(each.models) // 200 + 1]:
        for name in names_in(model.match):
            expected = each._match_model(name.lower(), all_providers=get_snapshot().providers)
            found = prices.find(name)
            rates = None if expected is None else script._model(expected).get("rates")
            assert (found is None) == (rates is None), name
            if found is not None and rates is not None:
                usd_in, *_, usd_out = rates[-1][2:]
                rate = found.rate(10**9, "2999-01-01")
                assert (rate.input, rate.output) == (round(usd_in * 10**6), round(usd_out * 10**6))


def example_url(each: types.Provider) -> str:
    """A base URL that a provider's pattern matches."""
    url = re.sub(r"\(\?:([^|()]+)[^()]*\)", r"\1", each.api_pattern)
    url = re.sub(r"\(\?:([^|()]+)[^()]*\)", r"\1", url)
    for old, new in (
        ("/|$", "/"),
        ("[^.]*", "x"),
        ("[^/]+", "x"),
        ("[a-z0-9-]+", "us-1"),
        (".*\\.", ""),
    ):
        url = url.replace(old, new)
    url = (
        re.sub(r"\([^()]*\)\?", "", url).replace("\\.", ".").replace("(/)", "/").replace("()?", "")
    )
    assert re.match(each.api_pattern, url), url
    return url


@pytest.mark.parametrize(
    ("base_url", "model", "usd_in"),
    [
        (OPENAI, "gpt-4o", 2.5),
        ("http://127.0.0.1:8081/v1", "gpt-4o", 2.5),
        ("https://my.openai.azure.com/openai/v1", "gpt-4o", 2.5),
        ("https://api.groq.com/openai/v1", "gpt-4o", None),
        ("https://api.groq.com/openai/v1", "llama-3.3-70b-versatile", 0.59),
        (OPENAI, "llama-3.3-70b-versatile", None),
        (OPENAI, "ft:gpt-4o-mini-2024-07-18:org::id", 0.3),
        (OPENAI, "ft:gpt-4o-mini:org::id", None),
        (OPENAI, "whisper-1", None),
        (OPENAI, "gpt-image-1.5", None),
    ],
)
def test_provider_is_that_of_the_upstream(base_url: str, model: str, usd_in: float | None) -> None:
    price = price_list(base_url).find(model)
    found = None if price is None else price.rate(0, "2026-11-28").input / 10**6
    assert found == usd_in


def test_audio_of_a_model_with_prices_for_it_is_not_priced_as_text() -> None:
    price = price_list().find("gpt-realtime")
    assert price is not None
    assert price.cost_nano(1000, 0, 0, "2026-11-28") == 4_000_000
    assert price.media_apart


def test_model_without_any_price_in_the_list_is_free() -> None:
    price, paid = price_list().find("omni-moderation-latest"), price_list().find("gpt-4o")
    assert price is not None
    assert paid is not None
    assert (price.is_free, paid.is_free) == (True, False)


def test_own_prices_replace_those_of_the_list(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text('[model."gpt-4o*"]\ninput_usd_per_mtok = 7\noutput_usd_per_mtok = 8\n')
    prices = load_prices(Settings(openai_api_key="sk-test", prices_file=str(file)))
    own, listed = prices.find("gpt-4o-mini"), prices.find("gpt-5-mini")
    assert own is not None
    assert listed is not None
    assert own.cost_nano(10, 10, 1, "2026-11-28") == 78_000
    assert listed.cost_nano(10, 10, 1, "2026-11-28") == 10 * 25 + 2_000


def test_list_names_its_provider_and_source() -> None:
    assert re.fullmatch(r"OpenAI, from genai-prices \d+\.\d+\.\d+", describe_list(OPENAI))
    assert describe_list("https://api.groq.com/openai/v1").startswith("Groq, from genai-pr")


def test_list_is_what_the_locked_package_says() -> None:
    assert script.TARGET.read_text() == script.make_list()


def test_list_is_small() -> None:
    assert script.TARGET.stat().st_size < 300_000
