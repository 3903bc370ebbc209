"""What the proxy's tests stand it between: raw clients and raw upstreams that do as they are told.

Everything here speaks in bytes over loopback sockets, and knows nothing of how the gate works.
Tests wait for events, each with a time limit, and never for time to pass.
"""
