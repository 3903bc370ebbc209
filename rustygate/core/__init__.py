"""The pure core: no asyncio, no I/O, no clock, no environment.

Everything in it depends on arguments alone. Time is one of them: `now`, in integer nanoseconds of
any monotonic clock. The core imports no other package of RustyGate.
"""
