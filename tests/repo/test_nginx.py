"""The balancer of the Compose profile `group`: nginx with two stand-ins for gates behind it."""

import asyncio
import getpass
import re
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from aiohttp import ClientPayloadError, ClientSession, UnixConnector, WSMsgType, web

from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
CONFIG = (ROOT / "scripts/nginx/nginx.conf").read_text()
URL = "http://balancer"
CHAT = f"{URL}/v1/chat/completions"

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")


class StandIn:
    """Answers in a gate's place.

    Attributes:
        requests: the heads it got.
        go_on: a stream waits for it after its first chunk.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.requests: list[web.BaseRequest] = []
        self.go_on = asyncio.Event()
        self.cuts = False
        self._runner: web.ServerRunner | None = None

    async def start(self) -> None:
        self._runner = web.ServerRunner(web.Server(self._answer))
        await self._runner.setup()
        await web.UnixSite(self._runner, self.path).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport
        self.requests.append(request)
        if request.headers.get("Upgrade"):
            return await self._echo(request)
        if request.path == "/v1/upload":
            first = await request.content.readany()
            self.go_on.set()
            rest = [len(chunk) async for chunk in request.content.iter_any()]
            return web.Response(text=f"{len(first)} then {sum(rest)}")
        if request.path == "/v1/vanish":
            await request.read()
            request.transport.abort()
            return web.Response()
        return await self._stream(request)

    async def _echo(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.WebSocketResponse()
        await response.prepare(request)
        async for message in response:
            await response.send_str(message.data)
        return response

    async def _stream(self, request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(headers={"Server": "upstream", "X_Odd": "kept"})
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        await self.go_on.wait()
        if self.cuts:
            assert request.transport
            request.transport.abort()
            return response
        await response.write(b"data: 2\n\n")
        return response


def configuration(folder: Path) -> str:
    """The balancer's own file, but with sockets of the test in place of addresses and names."""
    text = re.sub(r"^ *resolver .*\n", "", CONFIG, flags=re.M)
    text = re.sub(
        r"server rustygate-(\d):8080 resolve", rf"server unix:{folder}/gate-\1.sock", text
    )
    text = text.replace("listen 8080;", f"listen unix:{folder}/balancer.sock;")
    text = text.replace("/tmp/nginx.pid", f"{folder}/nginx.pid")
    paths = (
        f"{each}_temp_path {folder}/{each};"
        for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return text.replace("http {", "http {\n" + "\n".join(paths), 1)


@contextmanager
def nginx(folder: Path) -> Iterator[None]:
    (folder / "nginx.conf").write_text(configuration(folder))
    command = ["nginx", "-p", str(folder), "-c", "nginx.conf", "-e", "stderr", "-g"]
    directives = f"daemon off; user {getpass.getuser()};"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, directives], stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
async def gates(tmp_path: Path) -> AsyncIterator[list[StandIn]]:
    stand_ins = [StandIn(tmp_path / f"gate-{number}.sock") for number in (1, 2)]
    for each in stand_ins:
        await each.start()
    yield stand_ins
    for each in stand_ins:
        each.go_on.set()
        await each.stop()


def accepts(path: Path) -> bool:
    """Whether a process listens on a unix socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(str(path)) == 0


@pytest.fixture
async def client(tmp_path: Path, gates: list[StandIn]) -> AsyncIterator[ClientSession]:
    with nginx(tmp_path):
        path = tmp_path / "balancer.sock"
        await until(lambda: accepts(path))
        async with ClientSession(connector=UnixConnector(str(path))) as session:
            yield session


def let_go_on(gates: list[StandIn]) -> None:
    for gate in gates:
        gate.go_on.set()


def test_members_are_those_of_the_compose_file() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    members = {
        f"{name}:{each['environment']['PORT']}"
        for name, each in services.items()
        if each["profiles"] == ["group"] and "environment" in each
    }
    assert set(re.findall(r"^ *server ([\w-]+:\d+) resolve ", CONFIG, re.M)) == members
    assert services["balancer"]["ports"][0].endswith(":8080")


async def test_chunk_passes_before_the_next_one_exists(
    client: ClientSession, gates: list[StandIn]
) -> None:
    async with client.post(CHAT, data=b"{}") as response:
        assert await response.content.readany() == b"data: 1\n\n"
        let_go_on(gates)
        assert await response.content.readany() == b"data: 2\n\n"
        assert response.headers["Server"] == "upstream"
        assert response.headers["X_Odd"] == "kept"


async def test_cut_stream_stays_a_cut_stream(client: ClientSession, gates: list[StandIn]) -> None:
    for gate in gates:
        gate.cuts = True
    async with client.post(CHAT, data=b"{}") as response:
        assert await response.content.readany() == b"data: 1\n\n"
        let_go_on(gates)
        with pytest.raises(ClientPayloadError):
            await response.read()


async def test_upload_passes_before_it_ends(client: ClientSession, gates: list[StandIn]) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"x" * 10
        await asyncio.wait(
            [asyncio.create_task(gate.go_on.wait()) for gate in gates],
            return_when=asyncio.FIRST_COMPLETED,
        )
        yield b"y" * (2 << 20)

    async with client.post(f"{URL}/v1/upload", data=body()) as response:
        assert await response.text() == f"10 then {2 << 20}"
    let_go_on(gates)


async def test_websocket_is_bridged(client: ClientSession) -> None:
    async with client.ws_connect(f"{URL}/v1/realtime") as connection:
        await connection.send_str("hello")
        message = await connection.receive()
        assert (message.type, message.data) == (WSMsgType.TEXT, "hello")


async def test_request_goes_to_the_gate_with_fewer_requests(
    client: ClientSession, gates: list[StandIn]
) -> None:
    async with client.post(CHAT, data=b"{}"), client.post(CHAT, data=b"{}"):
        assert [len(gate.requests) for gate in gates] == [1, 1]
        let_go_on(gates)


async def test_gate_that_is_down_is_skipped(client: ClientSession, gates: list[StandIn]) -> None:
    let_go_on(gates)
    await gates[0].stop()
    statuses = Counter[int]()
    for _ in range(10):
        async with client.post(CHAT, data=b"{}") as response:
            statuses[response.status] += 1
    assert statuses == {200: 10}


async def test_post_that_a_gate_has_received_is_never_sent_again(
    client: ClientSession, gates: list[StandIn]
) -> None:
    async with client.post(f"{URL}/v1/vanish", data=b"{}") as response:
        assert response.status == 502
    assert sum(len(gate.requests) for gate in gates) == 1


@pytest.mark.parametrize(
    ("named", "expected"), [({}, "unix:"), ({"X-RustyGate-Client": "a"}, "a")]
)
async def test_client_without_a_name_gets_its_address(
    client: ClientSession, gates: list[StandIn], named: dict[str, str], expected: str
) -> None:
    let_go_on(gates)
    async with client.post(CHAT, data=b"{}", headers={"X_Odd": "1", **named}) as response:
        await response.read()
    [request] = [request for gate in gates for request in gate.requests]
    assert request.headers["X-RustyGate-Client"] == expected
    assert request.headers["Host"] == "balancer"
    assert request.headers["X-Forwarded-For"] == "unix:"
    assert request.headers["X_Odd"] == "1"
    assert "Connection" not in request.headers


async def test_metrics_of_any_one_gate_are_not_served(
    client: ClientSession, gates: list[StandIn]
) -> None:
    async with client.get(f"{URL}/metrics") as response:
        assert response.status == 404
    assert not any(gate.requests for gate in gates)
