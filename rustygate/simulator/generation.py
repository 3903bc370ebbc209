"""The endpoints at which a model answers: charged to its quota, then answered.

The seam between those who make answers, which know no connection, and `wire`.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from rustygate.simulator import models
from rustygate.simulator.answers import Events
from rustygate.simulator.asked import Asked, read
from rustygate.simulator.errors import ApiError, Failure
from rustygate.simulator.forms import MakeFile, read_form
from rustygate.simulator.limits import Quotas
from rustygate.simulator.passage import PASSAGE, Passage
from rustygate.simulator.refusals import beyond_quota
from rustygate.simulator.shelf import UploadedFile
from rustygate.simulator.stats import Stats
from rustygate.simulator.wire import before_head, reply, stream

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Generation:
    """The handlers of these endpoints, and what they share."""

    def __init__(self, quotas: Quotas, stats: Stats) -> None:
        self._quotas = quotas
        self._stats = stats

    def json(self, kind: type[Asked]) -> Handler:
        """The handler of an endpoint that is asked in JSON."""

        async def handle(request: web.Request) -> web.StreamResponse:
            return await self._generate(request, read(await body(request), kind))

        return handle

    def form(self, kind: type[Asked], make_file: MakeFile = UploadedFile) -> Handler:
        """The handler of an endpoint that is asked with a form; `make_file` as for `read_form`."""

        async def handle(request: web.Request) -> web.StreamResponse:
            return await self._generate(request, await read_form(request, kind, make_file))

        return handle

    async def _generate(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        account = self.account(request)
        account.charge(asked)
        await before_head(request)
        account.settle(asked)
        answer = asked.answer(account.wanted, f"{request.scheme}://{request.host}")
        if isinstance(answer, Events):
            with self._stats.stream():
                return await stream(request, answer)
        return await reply(request, answer)

    def account(self, request: web.Request) -> "Account":
        return Account(self._quotas, self._stats, request[PASSAGE])


@dataclass(frozen=True, slots=True)
class Account:
    """What a request's model, and its client, are charged."""

    quotas: Quotas
    stats: Stats
    passage: Passage

    @property
    def wanted(self) -> int | None:
        """How many tokens answers shall have, where a fault says so."""
        return self.passage.faults.tokens

    def charge(self, asked: Asked) -> None:
        """Take what it may cost from its model's quota.

        Raises:
            ApiError: there is no such model, or it has no room.
        """
        if asked.user is not None:
            self.passage.visit.count_for(self.stats.client(asked.user))
        self.choose(asked.model)
        assert self.passage.quota is not None
        cost = asked.cost(self.wanted)
        shortage = self.passage.quota.charge(time.monotonic_ns(), cost)
        if shortage is not None:
            raise ApiError(beyond_quota(asked.model, shortage))

    def choose(self, model: str) -> None:
        """Name the model. Raises `ApiError` if there is none of that name."""
        models.model(model)
        self.passage.place = model
        self.passage.quota = self.quotas.of(model)

    def settle(self, asked: Asked) -> None:
        """Count the tokens that its answer takes."""
        usage = asked.usage(self.wanted)
        self.passage.visit.took(usage.tokens_in, usage.tokens_out)

    def levels(self) -> list[dict[str, Any]]:
        """Where the model's limits stand."""
        quota = self.passage.quota
        return [] if quota is None else quota.levels(time.monotonic_ns())


async def body(request: web.Request) -> bytes:
    """A request's whole body."""
    try:
        return await request.read()
    except (HttpProcessingError, web.RequestPayloadError) as error:
        # Bad chunks, or bytes that are not of the encoding they claim.
        raise ApiError(Failure(400, "The body of your request is malformed.")) from error
