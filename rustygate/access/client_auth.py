"""Who may use the gate: the clients of CLIENTS_FILE, and what each may ask.

Without the file whoever can connect is served. With it, a request comes with a client's key, and
goes on under that client's name. The file can be read again while the gate runs; one that will
not do leaves the clients there were in force.
"""

import re
from collections.abc import Mapping
from urllib.parse import unquote

from aiohttp import hdrs, web

from rustygate.config import read_clients_file
from rustygate.core.clients import Client, Clients, Limits
from rustygate.core.request_facts import RequestFacts
from rustygate.errors import InvalidApiKey, ModelNotAllowed
from rustygate.exchange import Exchange

# Where bodies are files and name no model.
_FILES = ("/v1/files", "/v1/uploads")

# What is asked here names its models in a file, or deep in a body, or for a key that is then used
# past the gate.
_ELSEWHERE = re.compile(r"/+v1/+(batches/*|(evals|realtime)(/.*)?)", re.DOTALL)

_SCHEME = "bearer "


class ClientAuth:
    """The clients in force; `path` is their file, None lets everybody in.

    Raises `core.clients.ClientsError`, also from `reload`, which then changes nothing.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._clients: Clients | None = None
        self.reload()

    def __repr__(self) -> str:
        return f"<ClientAuth {self._clients}>"

    def reload(self) -> None:
        """Read the file again."""
        if self._path is not None:
            self._clients = read_clients_file(self._path)

    @property
    def requires_keys(self) -> bool:
        """Whether clients have keys, and no name but their key's."""
        return self._clients is not None

    @property
    def limits(self) -> Mapping[str, Limits]:
        """What limits the clients have of their own, by name; some have none."""
        clients = {} if self._clients is None else self._clients.by_name
        return {name: client.limits for name, client in clients.items()}

    def admit(
        self, request: web.Request, exchange: Exchange, offered: str | None = None
    ) -> Client | None:
        """Whose key a request carries, stamped on its exchange; None where nobody needs one.

        Raises `InvalidApiKey`.

        Args:
            offered: the key that a browser's WebSocket sends, which cannot set `Authorization`.
        """
        if self._clients is None:
            return None
        key = _key(request) or offered
        client = None if key is None else self._clients.find_by_key(key)
        if client is None:
            raise InvalidApiKey(sent=key is not None)
        exchange.client, exchange.weight = client.name, client.weight
        exchange.priority = client.cap_priority(exchange.priority)
        return client


def check_model(client: Client | None, exchange: Exchange, facts: RequestFacts | None) -> None:
    """Raise `ModelNotAllowed` if a client may not ask what it asks.

    Args:
        facts: what was read of the body; None if what is asked comes where it is not read, in a
            body that is streamed or in a WebSocket's frames.
    """
    if client is None or not client.models:
        return
    model = exchange.model
    if _names_models_elsewhere(exchange):
        # One that is named here too may be for show.
        model = None
    elif _shows_its_model(exchange, facts) if model is None else client.may_use(model):
        return
    allowed = ", ".join(client.models)
    if model is not None:
        raise ModelNotAllowed(f"{client.name} may not ask {model!a}, only {allowed}.")
    message = f"{client.name} may ask only {allowed}, and this request shows no model."
    raise ModelNotAllowed(message)


def _shows_its_model(exchange: Exchange, facts: RequestFacts | None) -> bool:
    """Whether a request without a model is known to ask none."""
    return exchange.path.startswith(_FILES) if facts is None else facts.readable


def _names_models_elsewhere(exchange: Exchange) -> bool:
    if exchange.method != hdrs.METH_POST:
        return False
    # However it is spelled.
    return _ELSEWHERE.fullmatch(unquote(exchange.path)) is not None


def _key(request: web.Request) -> str | None:
    given = request.headers.get(hdrs.AUTHORIZATION, "")
    if not given.lower().startswith(_SCHEME):
        return None
    return given[len(_SCHEME) :].strip() or None
