"""Runs a module on an event loop whose clock is slow: `FACTOR MODULE`.

A tool that counts instructions slows a program down. With a clock that is as slow, timers fire
after as much work as in production: a batch of log lines has as many lines, and the usage record
is written as rarely.
"""

import asyncio
import runpy
import selectors
import signal
import sys


class SlowSelector(selectors.DefaultSelector):
    """A selector for which a second takes `factor` seconds."""

    factor = 1

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(None if timeout is None else timeout * self.factor)


class SlowClockLoop(asyncio.SelectorEventLoop):
    """An event loop for which a second takes `factor` seconds."""

    def __init__(self, factor: int) -> None:
        selector = SlowSelector()
        selector.factor = self.factor = factor
        super().__init__(selector)

    def time(self) -> float:
        return super().time() / self.factor


class SlowClockPolicy(asyncio.DefaultEventLoopPolicy):
    """Makes `asyncio.run` use such a loop."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self._factor = factor

    def new_event_loop(self) -> SlowClockLoop:
        return SlowClockLoop(self._factor)


def main(factor: str, module: str) -> None:
    # SIGINT ends it, also in a background job, in which shells ignore that signal.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    asyncio.set_event_loop_policy(SlowClockPolicy(int(factor)))
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
