"""Runs a simulator until a command ends it; for `simulate` and `demo`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from rustygate.cli.errors import cannot_listen
from rustygate.cli.urls import build_url
from rustygate.simulator import Options, Report, make_app


@asynccontextmanager
async def running_simulator(
    options: Options, host: str, port: int, report: Report | None = None
) -> AsyncIterator[str]:
    """The URL of a serving simulator, without a path; `report` is called for each request."""
    runner = web.AppRunner(make_app(options, report), access_log=None, shutdown_timeout=0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise cannot_listen(host, port, error) from error
        yield build_url(host, site.port)
    finally:
        await runner.cleanup()
