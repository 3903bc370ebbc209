"""A forecast as a table: a row per client, and how much of the quota was used."""

from collections.abc import Iterator

from rustygate.plan.forecast import Forecast, Plan
from rustygate.system.terminal import DIM, RED, RESET


def rows(plan: Plan, forecast: Forecast, *, colored: bool = False) -> Iterator[str]:
    """The rows of the table, with a header and a summary."""
    width = max(6, *(len(demand.client) for demand in plan.demands))
    header = f"{'client':<{width}}  requests  admitted  refused   p50 s   p95 s   max s"
    yield f"{DIM}{header}{RESET}" if colored else header
    for name, outcome in forecast.outcomes.items():
        admitted = len(outcome.waits_s)
        refused = outcome.refused + outcome.failed
        waits = "".join(f"{outcome.quantile(share):8.2f}" for share in (0.5, 0.95, 1.0))
        shown = f"{refused:7d}"
        if refused and colored:
            shown = f"{RED}{shown}{RESET}"
        yield f"{name:<{width}}  {admitted + refused:8d}  {admitted:8d}  {shown}{waits}"
    yield ""
    requests = _used("requests", plan.rpm, forecast.used_requests)
    tokens = _used("tokens", plan.tpm, forecast.used_tokens)
    yield f"over {forecast.duration_s:.0f} s: {requests}, {tokens}"


def _used(kind: str, limit: int | None, share: float | None) -> str:
    return f"{kind} unlimited" if share is None else f"{share:.0%} of {limit} {kind} a minute used"
