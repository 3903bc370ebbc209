"""The endpoints at which a model answers: charged to its quota, then answered.

The seam between those who make answers, which know no connection, and `wire`.
"""

from collections.abc import Awaitable, Callable

from aiohttp import web

from rustygate.simulator.charges import Account
from rustygate.simulator.endpoints.realtime import RealtimeAsked, Session
from rustygate.simulator.endpoints.responses import ResponseSpeaker
from rustygate.simulator.limits import Quotas
from rustygate.simulator.request_context import PASSAGE
from rustygate.simulator.response_bodies import Events
from rustygate.simulator.schemas import Asked
from rustygate.simulator.stats import Stats
from rustygate.simulator.storage.file_store import UploadedFile
from rustygate.simulator.transport.delivery import before_head, reply, stream
from rustygate.simulator.transport.multipart import MakeFile, read_form
from rustygate.simulator.transport.parsing import body, convert, read
from rustygate.simulator.transport.websocket import Speaker, converse

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
        account = self._account(request)
        account.charge(asked.model, asked.cost(account.wanted), asked.user)
        await before_head(request)
        account.settle(asked.usage(account.wanted))
        answer = asked.answer(account.wanted, f"{request.scheme}://{request.host}")
        if isinstance(answer, Events):
            with self._stats.stream():
                return await stream(request, answer)
        return await reply(request, answer)

    async def realtime(self, request: web.Request) -> web.StreamResponse:
        """The Realtime API; a response is charged when it is asked for."""
        account = self._account(request)
        model = convert(request.query, RealtimeAsked).model
        account.choose(model)
        return await self._converse(request, Session(model, account))

    async def responses(self, request: web.Request) -> web.StreamResponse:
        """The Responses API over a WebSocket."""
        return await self._converse(request, ResponseSpeaker(self._account(request)))

    async def _converse(self, request: web.Request, speaker: Speaker) -> web.StreamResponse:
        with self._stats.socket():
            return await converse(request, speaker)

    def _account(self, request: web.Request) -> Account:
        return Account(self._quotas, self._stats, request[PASSAGE])
