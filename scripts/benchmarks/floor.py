"""The floor: the smallest aiohttp proxy. The other figures are ratios to it."""

import asyncio
import os

from aiohttp import ClientSession, ClientWebSocketResponse, DummyCookieJar, TCPConnector, web

from scripts.benchmarks.wire import BLOCK

WebSocket = ClientWebSocketResponse | web.WebSocketResponse


async def serve(upstream: str) -> None:
    """The streaming proxy of the aiohttp documentation: one handler and one session.

    A WebSocket is bridged by two loops that send what they receive.
    """
    session = ClientSession(
        connector=TCPConnector(limit=0), cookie_jar=DummyCookieJar(), auto_decompress=False
    )

    async def forward_messages(source: WebSocket, sink: WebSocket) -> None:
        async for message in source:
            await sink.send_str(message.data)
        await sink.close()

    async def bridge(request: web.Request) -> web.StreamResponse:
        client = web.WebSocketResponse()
        await client.prepare(request)
        async with session.ws_connect(upstream + request.raw_path) as server:
            await asyncio.gather(
                forward_messages(client, server), forward_messages(server, client)
            )
        return client

    async def handle(request: web.Request) -> web.StreamResponse:
        if "Upgrade" in request.headers:
            return await bridge(request)
        small = (request.content_length or 0) <= len(BLOCK)
        data = await request.read() if small else request.content
        headers = {k: v for k, v in request.headers.items() if k not in {"Host", "Connection"}}
        url = upstream + request.raw_path
        async with session.request(
            request.method, url, headers=headers, data=data
        ) as upstream_response:
            passed_headers = {
                k: v for k, v in upstream_response.headers.items() if k != "Transfer-Encoding"
            }
            response = web.StreamResponse(status=upstream_response.status, headers=passed_headers)
            await response.prepare(request)
            async for chunk in upstream_response.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(os.environ["PORT"]), backlog=2048).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(os.environ["UPSTREAM"]))
