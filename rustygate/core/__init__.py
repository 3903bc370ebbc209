"""The pure core: no asyncio, no I/O, no clock, no environment.

Everything here is a function of its arguments; time is one of them (`now`, integer
nanoseconds of any monotonic clock). It imports nothing else of RustyGate.
"""
