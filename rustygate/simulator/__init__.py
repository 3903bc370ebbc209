"""OpenAI's look-alike: its answers, its quotas and its failures, without spending anything.

It stands in for the API in demos, tests and benches, and in users' own tests of how their apps
stream and how they bear a 429. It knows nothing of the gate and imports nothing of it.

How a request goes: `app` has the routes, counts (`stats`) and answers for what goes wrong;
`faults` says what was asked to go wrong, `refusals` what a failure looks like. Bodies are read by
`asked` (JSON) and `forms` (multipart). Where a model answers, `generation` charges its quota
(`limits`, `account`) and one module for each kind of endpoint makes the answer (`chat`,
`completions`, `responses`, `embeddings`, `moderations`, `audio`, `speech`, `images`); what is
created and listed is kept in `tables`, its bytes on a `shelf` (`files`, `uploads`, `containers`,
`batches`). `wire` puts answers on the connection, `sockets` holds conversations (`realtime`,
`responses`).
"""

from rustygate.simulator.app import make_app
from rustygate.simulator.options import Options

__all__ = ["Options", "make_app"]
