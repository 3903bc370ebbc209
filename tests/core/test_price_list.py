"""Prices of models: which entry applies to a name, and what an exchange costs."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.price_list import (
    REMEMBERED_NAMES,
    REMEMBERED_UNPRICED,
    ListedModel,
    ModelPrice,
    PriceList,
    PricesError,
    Rate,
    parse_prices,
    rate_of,
)

DAY = "2026-11-28"


def flat(usd: float) -> ModelPrice:
    return ModelPrice([rate_of(input=usd, cached=usd, written=usd, output=usd)])


GPT = ModelPrice([rate_of(input=2.5, cached=1.25, written=3.125, output=10)])
CHEAP, DEAR = flat(1), flat(2)


# Costs.


@pytest.mark.parametrize(
    ("tokens", "nano"),
    [
        ((0, 0, 0), 0),
        ((1, 0, 0), 2_500),
        ((1, 1, 0), 1_250),
        ((0, 0, 1), 10_000),
        ((1000, 400, 20), 600 * 2_500 + 400 * 1_250 + 20 * 10_000),
        ((1_000_000, 0, 0), 2_500_000_000),
        # More than the input cannot have been cached.
        ((10, 11, 0), 10 * 1_250),
    ],
)
def test_cost_by_kind_of_token(tokens: tuple[int, int, int], nano: int) -> None:
    assert GPT.cost_nano(*tokens, DAY) == nano


def test_tokens_written_to_the_cache_have_their_own_price() -> None:
    assert (
        GPT.cost_nano(1000, 400, 20, DAY, 100) == 500 * 2_500 + 400 * 1_250 + 100 * 3_125 + 200_000
    )
    assert GPT.cost_nano(10, 6, 0, DAY, 5) == 6 * 1_250 + 4 * 3_125


@pytest.mark.parametrize(("usd", "nano"), [(0.0005, 1), (0.000499, 0), (0.0015, 2), (0.0625, 63)])
def test_cost_is_rounded_once_to_the_nearest_nanodollar(usd: float, nano: int) -> None:
    assert flat(usd).cost_nano(1, 0, 0, DAY) == nano
    assert flat(usd).cost_nano(400, 300, 600, DAY) == round(usd * 1_000_000)


def test_long_input_has_its_own_price_for_all_tokens() -> None:
    low = rate_of(input=1, cached=1, written=1, output=1)
    middle = rate_of(input=2, cached=2, written=2, output=2, input_from=101)
    high = rate_of(input=3, cached=3, written=3, output=3, input_from=201)
    price = ModelPrice([low, middle, high])
    costs = [price.cost_nano(tokens, 0, 0, DAY) // 1000 for tokens in (100, 101, 200, 201)]
    assert costs == [100, 202, 400, 603]
    assert price.cost_nano(101, 50, 10, DAY) == 2 * 111 * 1000


def test_price_applies_from_its_first_day() -> None:
    rates = [
        rate_of(input=3, cached=3, written=3, output=3),
        rate_of(input=4, cached=4, written=4, output=4, input_from=11),
        rate_of(input=1, cached=1, written=1, output=1, since="2026-12-01"),
        rate_of(input=2, cached=2, written=2, output=2, since="2026-12-01", input_from=11),
    ]
    price = ModelPrice(rates)
    assert price.cost_nano(10, 0, 0, "2026-11-30") == 30_000
    assert price.cost_nano(11, 0, 0, "2026-11-30") == 44_000
    assert price.cost_nano(10, 0, 0, "2026-12-01") == 10_000
    assert price.cost_nano(11, 0, 0, "2027-01-01") == 22_000
    assert ModelPrice(rates[2:3]).cost_nano(10, 0, 0, "2026-11-30") == 10_000


amounts = st.integers(0, 10**9)


@given(*[amounts] * 4, st.tuples(*[amounts] * 4))
def test_cost_is_within_half_a_nanodollar_of_the_exact_one(
    plain: int, cached: int, written: int, out: int, picos: tuple[int, int, int, int]
) -> None:
    price = ModelPrice([Rate("", 0, *picos)])
    parts = zip((plain, cached, written, out), picos, strict=True)
    exact = Fraction(sum(count * pico for count, pico in parts), 1000)
    cost = price.cost_nano(plain + cached + written, cached, out, DAY, written)
    assert abs(cost - exact) <= Fraction(1, 2)


# Which price applies to a name.


def test_first_entry_that_matches_counts() -> None:
    prices = PriceList(
        [
            ListedModel(["gpt-4o"], None, CHEAP),
            ListedModel(["o3"], "^gpt-4", DEAR),
            ListedModel(["gpt-4o", "gpt-4-turbo", "gpt-5"], "^gpt", GPT),
        ]
    )
    assert prices.find("gpt-4o") is CHEAP
    assert prices.find("gpt-4-turbo") is DEAR
    assert prices.find("o3") is DEAR
    assert prices.find("gpt-5") is GPT
    assert prices.find("gpt-4o-mini") is DEAR
    assert prices.find("gpt-6") is GPT
    assert prices.find("claude") is None
    assert prices.find("") is None


def test_entry_without_a_price_hides_later_ones() -> None:
    prices = PriceList([ListedModel(["sonar"], "^sonar-", None), ListedModel([], "sonar", CHEAP)])
    assert prices.find("sonar") is None
    assert prices.find("sonar-pro") is None
    assert prices.find("my-sonar") is CHEAP


def test_case_of_listed_names_does_not_matter() -> None:
    prices = PriceList([ListedModel(["gpt-4o"], "^o3", CHEAP)])
    assert prices.find("GPT-4o") is CHEAP
    assert prices.find("O3-mini") is CHEAP


def test_own_prices_count_before_the_list() -> None:
    own = {"gpt-4o*": DEAR}
    prices = PriceList([ListedModel(["gpt-4o", "o3"], None, CHEAP)], own)
    assert prices.find("gpt-4o") is DEAR
    assert prices.find("o3") is CHEAP


def test_exact_own_name_counts_before_long_patterns_before_short_ones() -> None:
    mini, tiny = flat(3), flat(4)
    own = {"*": CHEAP, "gpt-*": DEAR, "gpt-4o-mini-????-*": GPT, "gpt-4o": mini, "gpt-4[o]": tiny}
    prices = PriceList([], own)
    assert prices.find("gpt-4o") is mini
    assert prices.find("gpt-4o-mini-2024-07-18") is GPT
    assert prices.find("gpt-4o-mini") is DEAR
    assert prices.find("llama") is CHEAP
    assert PriceList([], {"gpt-4[o]": tiny, "gpt-*": DEAR}).find("gpt-4o") is tiny


def test_price_is_found_again() -> None:
    prices = PriceList([ListedModel(["gpt-4o"], None, CHEAP)])
    for _ in range(2):
        assert prices.find("gpt-4o") is CHEAP
        assert prices.find("unknown") is None


def test_memory_for_names_is_bounded() -> None:
    prices = PriceList([ListedModel([], "^gpt-", CHEAP)])
    for number in range(3 * REMEMBERED_NAMES):
        assert prices.find(f"gpt-{number}") is CHEAP
        assert prices.find(f"model-{number}") is None
    assert prices.find("m" * 100_000) is None
    assert 0 < len(prices._priced) <= REMEMBERED_NAMES
    assert 0 < len(prices._unpriced) <= REMEMBERED_UNPRICED
    assert max(map(len, prices._unpriced)) < 300


# The table in PRICES_FILE.


def test_table_of_own_prices() -> None:
    parsed = parse_prices(
        '[model."gpt-4o*"]\ninput_usd_per_mtok = 2.5\ncached_input_usd_per_mtok = 1.25\n'
        "output_usd_per_mtok = 10\n\n[model.local]\ninput_usd_per_mtok = 0\n"
        "output_usd_per_mtok = 0.0\n\n[model.simple]\ninput_usd_per_mtok = 3\n"
        "output_usd_per_mtok = 4\n"
    )
    assert list(parsed) == ["gpt-4o*", "local", "simple"]
    assert parsed["gpt-4o*"].cost_nano(10, 4, 1, DAY, 3) == 6 * 2_500 + 4 * 1_250 + 10_000
    assert parsed["local"].cost_nano(10**6, 0, 10**6, DAY) == 0
    assert parsed["simple"].cost_nano(10, 4, 1, DAY) == 34_000


def test_empty_table_has_no_prices() -> None:
    assert parse_prices("") == {}
    assert parse_prices("# none yet\n[model]\n") == {}


OK = "input_usd_per_mtok = 1\noutput_usd_per_mtok = 1\n"
EXPECTED = "expected dollars per million tokens, from 0 to 1000000"


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("input = x", ["expected TOML: syntax error at line 1, column 9"]),
        ("[client.a]\n", ["""unknown table 'client': expected [model."NAME"]"""]),
        ("model = 1\n", ["""model: expected tables [model."NAME"]"""]),
        (
            "[model]\na = 1\n",
            ["model.'a': expected a table with input_usd_per_mtok and output_usd_per_mtok"],
        ),
        (
            "[model.a]\n",
            [
                f"model.'a'.input_usd_per_mtok: not set; {EXPECTED}",
                f"model.'a'.output_usd_per_mtok: not set; {EXPECTED}",
            ],
        ),
        (
            f"[model.a]\n{OK}price = 1\n",
            [
                "model.'a'.'price': unknown key; expected one of input_usd_per_mtok, "
                "cached_input_usd_per_mtok, output_usd_per_mtok"
            ],
        ),
        (
            f'[model."gpt-4o*"]\n{OK}cached_input_usd_per_mtok = -1\n[model.b]\n',
            [
                f"model.'gpt-4o*'.cached_input_usd_per_mtok=-1: {EXPECTED}",
                f"model.'b'.input_usd_per_mtok: not set; {EXPECTED}",
                f"model.'b'.output_usd_per_mtok: not set; {EXPECTED}",
            ],
        ),
        *(
            (
                f"[model.a]\n{OK}cached_input_usd_per_mtok = {value}\n",
                [f"model.'a'.cached_input_usd_per_mtok={shown}: {EXPECTED}"],
            )
            for value, shown in [
                *(("nan", "nan"), ("inf", "inf"), ("true", "True"), ("'1'", "'1'")),
                *(("1000001", "1000001"), ("2026-11-28", "datetime.date(2026, 11, 28)")),
            ]
        ),
    ],
)
def test_all_problems_of_a_table_are_reported(text: str, problems: list[str]) -> None:
    with pytest.raises(PricesError) as error:
        parse_prices(text)
    assert error.value.problems == problems


def test_problem_is_one_short_line_whatever_the_name() -> None:
    with pytest.raises(PricesError) as error:
        parse_prices('[model."' + "x" * 10_000 + '"]\n' + OK + '"\\n\\u202e" = 1\n')
    [problem] = error.value.problems
    assert problem.isascii()
    assert problem.isprintable()
    assert len(problem) < 250


def test_number_with_too_many_digits_is_rejected() -> None:
    text = f"[model.a]\ninput_usd_per_mtok = 0x{'f' * 5000}\noutput_usd_per_mtok = 1\n"
    with pytest.raises(PricesError) as caught:
        parse_prices(text)
    [problem] = caught.value.problems
    assert problem.startswith("model.'a'.input_usd_per_mtok=(too long to show): expected dollars")
