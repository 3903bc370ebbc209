"""A TCP proxy that delays what passes, as a process: `python slow_proxy.py PORT SECONDS`.

It prints its own port. Half of the delay is on the way there, half on the way back. Stopped by a
signal, it is a network that loses everything: connections are made, and nothing comes.
"""

import asyncio
import signal
import subprocess
import sys

_CHUNK = 1 << 16


async def _serve(port: int, delay_s: float) -> None:
    # The event loop keeps weak references to tasks only.
    connections = set()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.current_task())
        try:
            there = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(_copy(reader, there[1], delay_s), _copy(there[0], writer, delay_s))

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float
) -> None:
    loop = asyncio.get_running_loop()
    try:
        while data := await reader.read(_CHUNK):
            loop.call_later(delay_s / 2, writer.write, data)
    except OSError:
        pass
    loop.call_later(delay_s / 2, writer.transport.abort)


class SlowProxy:
    """The running process. `port`: where it listens."""

    def __init__(self, to_port: int, delay_s: float = 0.0) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, __file__, str(to_port), str(delay_s)],
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        assert self._popen.stdout
        self.port = int(self._popen.stdout.readline())

    def hang(self) -> None:
        self._popen.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._popen.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self._popen.kill()
        self._popen.wait()
        assert self._popen.stdout
        self._popen.stdout.close()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2])))
