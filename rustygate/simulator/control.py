"""The simulator's own pages, `/simulator/...`; they want no key and are counted nowhere."""

import time
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from rustygate.simulator.endpoints.images import png
from rustygate.simulator.errors import ApiError, Failure
from rustygate.simulator.limits import Quotas
from rustygate.simulator.schemas import Name
from rustygate.simulator.stats import Stats
from rustygate.simulator.transport.parsing import body, read

Limit = Annotated[int, Meta(ge=0, le=10**15)] | None | UnsetType


class _LimitsAsked(msgspec.Struct):
    """New limits, of a model or of all; what is left out stays, null and 0 are no limit."""

    model: Name | None = None
    rpm: Limit = UNSET
    tpm: Limit = UNSET

    @property
    def limits(self) -> dict[str, int]:
        said = {"rpm": self.rpm, "tpm": self.tpm}
        return {name: limit or 0 for name, limit in said.items() if limit is not UNSET}


class Pages:
    """The simulator's own pages; they want no key and are counted nowhere."""

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
        """Change limits at once; the answer is all that are in force then."""
        asked = read(await body(request), _LimitsAsked)
        try:
            self._quotas.change(time.monotonic_ns(), asked.model, **asked.limits)
        except OverflowError as error:
            raise ApiError(Failure(400, f"{error}.", param="model")) from error
        return web.json_response(self._quotas.snapshot())

    async def reset(self, request: web.Request) -> web.Response:
        self._stats.reset()
        self._quotas.reset()
        return web.Response(status=204)
