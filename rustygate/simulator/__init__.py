"""An OpenAI look-alike with true quotas, responses and errors, which costs nothing to call.

It stands in for the API in demos, tests and benchmarks, and in users' own tests of how their
apps handle streams and 429s. It knows nothing of the gate and imports nothing from it.

Life of a request: `app` has the routes. `middleware` checks the API key, reads the requested
faults, counts the request (`stats`), adds OpenAI's headers and turns exceptions into error
responses (`errors`). `transport` reads bodies (`parsing`, `multipart`) and sends responses
(`delivery`, `websocket`) at their pace and with their faults. `endpoints` has one module per kind
of endpoint; `endpoints.generation` charges each request to a model to that model's quota
(`charges`, `limits`). `answers` decides what the model says: text, values of JSON schemas, or
calls of tools. `storage` keeps uploaded files and created objects in memory. `control` has the
simulator's own endpoints, `/simulator/...`.
"""

from rustygate.simulator.app import make_app
from rustygate.simulator.options import Options
from rustygate.simulator.request_summary import Report, RequestSummary

__all__ = ["Options", "Report", "RequestSummary", "make_app"]
