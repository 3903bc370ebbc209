"""Selects and groups totals for a report, for stores without a query language."""

from collections.abc import Mapping

from rustygate.core.usage_rows import Grouped, UsageKey, UsageQuery, UsageTotals, group


def select(query: UsageQuery, usage: Mapping[UsageKey, UsageTotals]) -> Grouped:
    """The totals in a report, grouped."""
    chosen = {
        key: totals
        for key, totals in usage.items()
        if query.since <= key.day <= query.until and query.client in (None, key.client)
    }
    return group(chosen, query.by)


def merge(*parts: Grouped) -> Grouped:
    """Merge groups from several sources."""
    sums: dict[tuple[str, ...], UsageTotals] = {}
    for names, totals in (each for part in parts for each in part):
        sums.setdefault(names, UsageTotals()).add(totals)
    return sorted(sums.items(), key=lambda item: item[0])
