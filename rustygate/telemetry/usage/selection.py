"""Choosing and grouping totals for a report, where no database does it."""

from collections.abc import Mapping

from rustygate.core.usage_rows import Grouped, UsageKey, UsageQuery, UsageTotals, group


def select(query: UsageQuery, usage: Mapping[UsageKey, UsageTotals]) -> Grouped:
    """The totals that a report is about, grouped."""
    chosen = {
        key: totals
        for key, totals in usage.items()
        if query.since <= key.day <= query.until and query.client in (None, key.client)
    }
    return group(chosen, query.by)


def merge(*parts: Grouped) -> Grouped:
    """Groups from several places as one."""
    sums: dict[tuple[str, ...], UsageTotals] = {}
    for names, totals in (each for part in parts for each in part):
        sums.setdefault(names, UsageTotals()).add(totals)
    return sorted(sums.items(), key=lambda item: item[0])
