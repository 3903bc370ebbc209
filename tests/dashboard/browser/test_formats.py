"""How the page's scripts write numbers, times and amounts."""

from collections.abc import Awaitable, Callable
from typing import Any

from tests.support.browser import Visit
from tests.support.page_states import DASH

CASES: dict[str, dict[Any, str]] = {
    "count": {0: "0", 1234567: "1,234,567", None: DASH, "x": DASH},
    "compact": {0: "0", 9999: "9,999", 10_000: "10K", 123_456: "123K", 1_234_567: "1.23M"},
    "rate": {0: "0.0", 9.96: "10.0", 99.94: "99.9", 99.96: "100", 1234.5: "1,235"},
    "percent": {0: "0%", 0.335: "34%", 1: "100%", None: DASH},
    "money": {
        0: "$0.00",
        0.00001: "<$0.0001",
        0.1234: "$0.1234",
        0.99999: "$1.00",
        1.5: "$1.50",
        1.999: "$2.00",
        1234.56: "$1,234.56",
        None: "unknown",
    },
    "duration": {
        0: "0 s",
        0.0001: "1 ms",
        0.34: "340 ms",
        0.9994: "999 ms",
        0.9996: "1.0 s",
        59.94: "59.9 s",
        59.96: "1 min 00 s",
        125: "2 min 05 s",
        3599.6: "1 h 00 min",
        11_520: "3 h 12 min",
        356_400: "4 d 03 h",
        None: DASH,
    },
    "ago": {0.4: "just now", 4.9: "4 s ago", 75: "1 min 15 s ago", None: DASH},
    "words": {"budget_exceeded": "budget exceeded"},
    "clock": {None: DASH, "nonsense": DASH},
}


async def test_values_are_written_for_people(live: Callable[..., Awaitable[Visit]]) -> None:
    visit = await live()
    script = """async (cases) => {
        const formats = await import('/gate/format.js');
        return cases.map(([name, value]) => formats[name](value));
    }"""
    cases: list[Any] = [[name, value] for name, values in CASES.items() for value in values]
    written = await visit.page.evaluate(script, cases)
    expected = [text for values in CASES.values() for text in values.values()]
    assert written == expected
