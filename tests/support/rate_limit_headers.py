"""Headers as upstream sends them, and as aiohttp gives them."""

from multidict import CIMultiDict, CIMultiDictProxy

NAMES = [f"X-RateLimit-{field}-{kind}" for field in ("Limit", "Remaining", "Reset")
         for kind in ("Requests", "Tokens")]  # fmt: skip


def headers_of(**headers: str) -> CIMultiDictProxy[str]:
    """Headers as aiohttp gives them; `retry_after` is `Retry-After`."""
    named = {name.replace("_", "-").title(): value for name, value in headers.items()}
    return CIMultiDictProxy(CIMultiDict(named))


def quota_headers(kind: str, limit: str, remaining: str, reset: str) -> dict[str, str]:
    return {
        f"x_ratelimit_limit_{kind}": limit,
        f"x_ratelimit_remaining_{kind}": remaining,
        f"x_ratelimit_reset_{kind}": reset,
    }
