"""Gates as processes, with an upstream and clients of the official SDK.

Everything is on loopback. The gates are started together, and ended by their process ids. What
reaches upstream is recorded with its instant.
"""

import asyncio
import json
import re
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import openai
from aiohttp import web

from rustygate.core.clients import hash_key
from tests.support.lateness import Lateness
from tests.support.process import PROCESS_TIMEOUT_S, Process, children_of

UPSTREAM_KEY = "sk-upstream-key-of-the-gates"

# How many requests a client that always wants more keeps under way: enough while this process is
# stopped for 0.2 s by others.
_IN_FLIGHT = 12
# How long streams take, and the time between their events.
_STREAM_S, _EVENT_INTERVAL_S = 0.5, 0.05


class Arrival(NamedTuple):
    """A request at upstream. `at`: the event loop's time."""

    at: float
    client: str


class RecordingUpstream:
    """Answers chats, and records when they arrive. The field `user` is the client's name.

    Attributes:
        hold_s: how long a response takes.
        most_in_flight: the most requests at a time so far, of each client, and of "all".
    """

    def __init__(self) -> None:
        self.hold_s = 0.0
        self.arrivals: list[Arrival] = []
        self.most_in_flight: Counter[str] = Counter()
        self._in_flight: Counter[str] = Counter()
        self._runner: web.AppRunner | None = None

    async def start(self) -> str:
        """Listen. Returns the URL."""
        application = web.Application()
        application.router.add_post("/v1/chat/completions", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        at = asyncio.get_running_loop().time()
        body = await request.json()
        client = body.get("user", "")
        self.arrivals.append(Arrival(at, client))
        for name in (client, "all"):
            self._in_flight[name] += 1
            self.most_in_flight[name] = max(self.most_in_flight[name], self._in_flight[name])
        try:
            if body.get("stream"):
                return await self._stream(request)
            await asyncio.sleep(self.hold_s)
            return web.json_response(_chat("chat.completion", {"message": _MESSAGE}))
        except ConnectionError:
            return web.Response()  # The gate has gone.
        finally:
            self._in_flight -= Counter((client, "all"))

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        chunk = json.dumps(_chat("chat.completion.chunk", {"delta": _MESSAGE}))
        end = asyncio.get_running_loop().time() + _STREAM_S
        while asyncio.get_running_loop().time() < end:
            await response.write(f"data: {chunk}\n\n".encode())
            await asyncio.sleep(_EVENT_INTERVAL_S)
        await response.write(b"data: [DONE]\n\n")
        return response

    def used(self, rate: float, since: float, until: float, client: str | None = None) -> float:
        """The part of a rate that arrived from one instant to another."""
        return self.count(since, until, client) / (rate * (until - since))

    def count(self, since: float, until: float, client: str | None = None) -> int:
        return sum(since <= at < until and client in (None, name) for at, name in self.arrivals)

    def excess(self, rate: float, since: float = 0, client: str | None = None) -> float:
        """The most that arrived in any window beyond the rate: the burst that was seen."""
        lowest, highest = float("inf"), 0.0
        times = sorted(at for at, name in self.arrivals if at >= since and client in (None, name))
        for number, at in enumerate(times):
            lowest = min(lowest, number - rate * at)
            highest = max(highest, number - rate * at - lowest + 1)
        return highest

    def jain(self, clients: Sequence[str], since: float, until: float) -> float:
        """Jain's fairness index of what some clients got."""
        shares = [self.count(since, until, client) for client in clients]
        return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares) or 1)


_MESSAGE = {"role": "assistant", "content": "Hi"}


def _chat(kind: str, choice: dict[str, Any]) -> dict[str, Any]:
    choices = [{"index": 0, "finish_reason": "stop", **choice}]
    usage = {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}
    base = {"id": "chat-1", "created": 1, "model": "gpt-4o", "usage": usage}
    return {**base, "object": kind, "choices": choices}


class RunningGate(Process):
    """A gate of several.

    Attributes:
        lines: its log so far.
        is_gone: it was told to end.
        is_stopped: by a signal, for a time.
        may_cut: it may cut off requests, and refuse those that it has queued.
    """

    def __init__(self, cwd: Path, environ: dict[str, Any]) -> None:
        super().__init__("serve", cwd=cwd, **environ)
        self.lines: list[str] = []
        self.is_gone = self.is_stopped = self.may_cut = False
        self.url = ""
        self._listening: Future[str] = Future()
        # A log that nobody reads stops a gate.
        self._reader = Thread(target=self._read_log, daemon=True)
        self._reader.start()

    def _read_log(self) -> None:
        with suppress(ValueError):  # closed
            for line in self.stderr:
                self.lines.append(line)
                if not self._listening.done() and "listening url=" in line:
                    self._listening.set_result(line.partition("listening url=")[2].split()[0])

    @property
    def answers(self) -> bool:
        """Whether a balancer would use it."""
        return bool(self.url) and not (self.is_gone or self.is_stopped)

    async def start(self) -> None:
        async with asyncio.timeout(PROCESS_TIMEOUT_S):
            self.url = await asyncio.wrap_future(self._listening)

    def log(self, text: str) -> list[str]:
        """The lines of the log that contain a text."""
        return [line for line in self.lines if text in line]

    def stop(self) -> None:
        self.is_stopped = True
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.is_stopped = False
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        self.is_gone = self.may_cut = True
        self.signal(signal.SIGKILL)

    def drain(self) -> None:
        self.is_gone = self.may_cut = True
        self.signal(signal.SIGTERM)

    def close(self) -> None:
        self._popen.kill()
        self._popen.wait()
        self._reader.join()
        self.stdout.close()
        self.stderr.close()


class Gates:
    """Gates, and clients that use them.

    Attributes:
        errors: what clients got instead of a response.
        lost: exchanges that a killed process took with it.
        moved: requests that a draining gate or worker refused, and another one took.
        lateness: by how much this process and those of the gates were late.
    """

    def __init__(self, directory: Path, upstream_url: str | None = None) -> None:
        self.upstream = RecordingUpstream()
        self.gates: list[RunningGate] = []
        self.errors: Counter[str] = Counter()
        self.lost = self.moved = 0
        self.lateness = Lateness()
        self._accounted_s = 0.0
        self.pages = ""
        self._directory = directory
        self._upstream_url = upstream_url
        self._measured_at = 0.0
        self._http = openai.DefaultAsyncHttpxClient(timeout=60)
        self._tasks: list[asyncio.Task[None]] = []

    def __iter__(self) -> Iterator[RunningGate]:
        """The gates that are not gone."""
        return (gate for gate in self.gates if not gate.is_gone)

    async def start_upstream(self) -> None:
        if self._upstream_url is None:
            self._upstream_url = await self.upstream.start()

    def watch_machine(self) -> None:
        """Measure from now on how busy the machine is."""
        self._measured_at = asyncio.get_running_loop().time()
        self._tasks.append(asyncio.create_task(self.lateness.watch(self._processes)))

    def _processes(self) -> Iterator[int]:
        """The processes of the gates, with their workers."""
        for gate in self:
            yield gate.pid
            yield from children_of(gate.pid)

    @property
    def jitter_s(self) -> float:
        """How much later than granted a request may reach upstream on this machine, now."""
        return 0.02 + 2 * self.lateness.worst_s

    def bounds(self, least: float, most: float) -> tuple[float, float]:
        """How much of a quota must and may be used on this machine, since the last call, instead
        of these parts on an idle one. What was late may add to the second that follows."""
        return least - self._machine_loss(), most + 2 * self.lateness.worst_s

    def _machine_loss(self) -> float:
        """The part of a quota that a group may lose because the machine is busy, since the last
        call. With small bursts, no process may be late for as long as grants reach ahead. If this
        one was, some others, such as Redis, were as well."""
        now = asyncio.get_running_loop().time()
        seconds, self._measured_at = now - self._measured_at, now
        stalled_s = 3 * self.lateness.stalled_s + self.lateness.others_stalled_s
        newly_s, self._accounted_s = stalled_s - self._accounted_s, stalled_s
        return newly_s / seconds

    def run_gate(self, **settings: object) -> RunningGate:
        """Start the process of another gate."""
        given: dict[str, object] = {
            "OPENAI_API_KEY": UPSTREAM_KEY,
            "OPENAI_BASE_URL": self._upstream_url,
            "RATE_LIMIT_TIMEOUT": "60",
            "PORT": "0",
            "RUST_LOG": "info",
        }
        given |= settings
        environ = {name: str(value) for name, value in given.items()}
        self.gates.append(RunningGate(self._directory, environ))
        return self.gates[-1]

    async def close(self) -> None:
        """End everything."""
        await self.stop_clients()
        await self._http.aclose()
        for gate in self.gates:
            gate.close()
        await self.upstream.stop()
        for text in self.texts():
            assert "Traceback" not in text

    def texts(self) -> Iterator[str]:
        """The pages that were read, and the logs."""
        yield self.pages
        for gate in self.gates:
            yield from gate.lines

    async def page(self, gate: RunningGate, path: str) -> str:
        text = (await self._http.get(gate.url + path)).text
        self.pages += text
        return text

    # Clients.

    def client(self, name: str, *places: int, key: str = "any") -> "GateClient":
        """A client that uses some gates in turn."""
        return GateClient(self, self._http, name, places, key)

    def keep_sending(
        self,
        name: str,
        *places: int,
        in_flight: int = _IN_FLIGHT,
        key: str = "any",
        **options: Any,
    ) -> None:
        """Let a client always want more than it gets."""
        client = self.client(name, *places, key=key)
        self._tasks += [
            asyncio.create_task(client.keep_sending(**options)) for _ in range(in_flight)
        ]

    async def stop_clients(self) -> None:
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            assert isinstance(result, asyncio.CancelledError), result
        self._tasks.clear()


class GateClient:
    """A client of the official SDK, its retries off, behind a balancer: it goes on to another
    gate when one is gone or stopped."""

    def __init__(
        self,
        gates: Gates,
        http: openai.DefaultAsyncHttpxClient,
        name: str,
        places: Sequence[int],
        key: str,
    ) -> None:
        self._all = gates
        self._http = http
        self._name = name
        self._key = key
        self._places = places
        self._turns = cycle(places)
        self._sdks: dict[str, openai.AsyncOpenAI] = {}
        self._turn = 0

    async def _next_gate(self) -> RunningGate:
        gates = self._all.gates
        while not any(gate.answers for gate in gates):  # noqa: ASYNC110 - no event is set
            await asyncio.sleep(0.02)
        for _ in self._places:
            gate = gates[next(self._turns)]
            if gate.answers:
                return gate
        present = [gate for gate in gates if gate.answers]
        self._turn += 1
        return present[self._turn % len(present)]

    def _sdk(self, gate: RunningGate) -> openai.AsyncOpenAI:
        if gate.url not in self._sdks:
            self._sdks[gate.url] = openai.AsyncOpenAI(
                base_url=f"{gate.url}/v1",
                api_key=self._key,
                max_retries=0,
                default_headers={"X-RustyGate-Client": self._name},
                http_client=self._http,
            )
        return self._sdks[gate.url]

    async def send(self, **options: Any) -> float:
        """Send a request. Returns how long it was queued, in ms."""
        gate = await self._next_gate()
        arguments = {"model": "gpt-4o", "messages": _QUESTION, "user": self._name} | options
        try:
            response = await self._sdk(gate).chat.completions.with_raw_response.create(**arguments)
            if options.get("stream"):
                events: Any = response.parse()
                async for _ in events:
                    pass
        except openai.APIStatusError as error:
            if gate.may_cut and error.code == "draining":
                self._all.moved += 1
                return await self.send(**options)
            self._all.errors[f"{error.status_code} {error.code}"] += 1
            return 0
        except Exception as error:  # the library below the SDK has errors of its own
            if gate.may_cut:
                self._all.lost += 1
            else:
                self._all.errors[repr(error)] += 1
            return 0
        return float(_QUEUED.findall(response.headers["server-timing"])[0])

    async def keep_sending(self, pause_s: float = 0, **options: Any) -> None:
        while True:
            await self.send(**options)
            await asyncio.sleep(pause_s)


_QUEUED = re.compile(r"queue;dur=([\d.]+)")

_QUESTION = [{"role": "user", "content": "Hi"}]


# For a gate that sends 40 requests a second: a client with a limit of its own, and another one.
CLIENT_KEYS = {"slow": "rg-slow-client-of-the-gate", "other": "rg-other-client-of-the-gate"}
CLIENTS_FILE = f"""
[client.slow]
key_sha256 = "{hash_key(CLIENT_KEYS["slow"])}"
requests_per_second = 10.0
burst = 2
[client.other]
key_sha256 = "{hash_key(CLIENT_KEYS["other"])}"
"""


async def pass_time(seconds: float) -> float:
    """Let the clients send for a time. Returns the instant at its end."""
    await asyncio.sleep(seconds)
    return asyncio.get_running_loop().time()
