"""Helpers of the tests: raw clients, scripted upstreams, running gates.

They exchange bytes over loopback sockets and know nothing of how the gate works. Tests wait for
events, each with a time limit, and never for time to pass.
"""
