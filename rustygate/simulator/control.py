"""The simulator's own endpoints, `/simulator/...`: stats, limits, reset and generated images.

They need no API key and are not counted in the stats.
"""

import time
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from rustygate.simulator.endpoints.images import png
from rustygate.simulator.errors import ApiError, ErrorResponse
from rustygate.simulator.limits import Quotas
from rustygate.simulator.schemas import Name
from rustygate.simulator.stats import Stats
from rustygate.simulator.transport.parsing import parse_json, read_body

Limit = Annotated[int, Meta(ge=0, le=10**15)] | None | UnsetType


class ChangeLimitsRequest(msgspec.Struct):
    """New limits of one model or of all.

    A limit that is left out stays as it is; null and 0 mean no limit.
    """

    model: Name | None = None
    rpm: Limit = UNSET
    tpm: Limit = UNSET

    @property
    def limits(self) -> dict[str, int]:
        given = {"rpm": self.rpm, "tpm": self.tpm}
        return {name: limit or 0 for name, limit in given.items() if limit is not UNSET}


class ControlEndpoints:
    """The handlers of the simulator's own endpoints."""

    def __init__(self, quotas: Quotas, stats: Stats) -> None:
        self._quotas = quotas
        self._stats = stats

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/simulator/stats", self.show_stats),
            web.get("/simulator/images/{colour:[0-9a-f]{6}}.png", self.show_image),
            web.post("/simulator/limits", self.change_limits),
            web.post("/simulator/reset", self.reset),
        ]

    async def show_stats(self, request: web.Request) -> web.Response:
        return web.json_response(self._stats.snapshot())

    async def show_image(self, request: web.Request) -> web.Response:
        return web.Response(body=png(request.match_info["colour"]), content_type="image/png")

    async def change_limits(self, request: web.Request) -> web.Response:
        """Change limits at once, and respond with all limits now in force."""
        change = parse_json(await read_body(request), ChangeLimitsRequest)
        try:
            self._quotas.change(time.monotonic_ns(), change.model, **change.limits)
        except OverflowError as error:
            raise ApiError(ErrorResponse(400, f"{error}.", param="model")) from error
        return web.json_response(self._quotas.snapshot())

    async def reset(self, request: web.Request) -> web.Response:
        self._stats.reset()
        self._quotas.reset()
        return web.Response(status=204)
