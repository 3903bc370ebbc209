"""OpenAI's look-alike: its answers, its quotas and its failures, without spending anything.

It stands in for the API in demos, tests and benches, and in users' own tests of how their apps
stream and how they bear a 429. It knows nothing of the gate and imports nothing of it.

How a request goes: `app` routes and answers for what goes wrong, `faults` says what was asked to
go wrong, `limits` keeps the quota of each model, one module for each kind of endpoint (`chat`,
`responses`, `embeddings`, `models`) makes the objects, `wire` puts them on the connection and
`stats` counts.
"""

from rustygate.simulator.app import make_app
from rustygate.simulator.options import Options

__all__ = ["Options", "make_app"]
