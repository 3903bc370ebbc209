"""Client keys: who may use the gate, and which models each client may use.

Without CLIENTS_FILE the gate serves every client that can connect. With it, a request needs a
client's key, which identifies the client. The file can be reloaded while the gate runs; if the
new file is invalid, the previous clients stay in force.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from urllib.parse import unquote

from aiohttp import hdrs, web
from multidict import istr

from rustygate.config import modification_time, read_clients_file
from rustygate.core.ambiguous_json import is_ambiguous
from rustygate.core.clients import Client, Clients, ClientsError, Limits, SpendingLimits
from rustygate.core.request_facts import RequestFacts
from rustygate.errors import InvalidApiKey, ModelNotAllowed
from rustygate.exchange import Exchange

# Paths whose bodies are files and name no model.
_FILE_PATHS = ("/v1/files", "/v1/uploads")

# Paths whose requests name their models in a file, deep in the body or in the path, as Azure's and
# Gemini's do, or ask for a key that is then used without the gate.
_HIDES_MODELS = re.compile(
    r"/+v1/+(batches/*|(deployments|engines|evals|models|realtime)(/.*)?)", re.DOTALL
)

# How many paths are remembered. Each has up to 32 KiB.
CACHED_PATHS = 64

_SCHEME = "bearer "

# Headers whose value is a key and nothing else, as Azure's, Anthropic's and Google's clients send
# it. A key that is in no known header gets the request refused, so it does not go upstream.
KEY_HEADERS = (istr("api-key"), istr("x-api-key"), istr("x-goog-api-key"))


class ClientAuth:
    """The clients in force.

    Raises `core.clients.ClientsError`, also from `reload`, which then changes nothing.

    Args:
        path: the clients file; None serves every client.
        find_problems: what else makes a file invalid, such as budgets that cannot be enforced.

    Attributes:
        version: when the file was changed, in microseconds.
    """

    def __init__(
        self,
        path: str | None,
        find_problems: Callable[[Clients], list[str]] = lambda clients: [],
    ) -> None:
        self._path = path
        self._find_problems = find_problems
        self._clients: Clients | None = None
        self.version = 0
        self.reload()

    def __repr__(self) -> str:
        return f"<ClientAuth {self._clients}>"

    def reload(self) -> None:
        """Read the file again, if there is one."""
        if self._path is not None:
            # Read before the file: if that is replaced meanwhile, the version is too old, not new.
            version = modification_time(self._path)
            clients = read_clients_file(self._path)
            if problems := self._find_problems(clients):
                raise ClientsError(problems)
            self._clients, self.version = clients, version

    def replace(self, clients: Clients | None) -> None:
        """Use clients that another process has read; None serves every client."""
        self._clients = clients

    @property
    def in_force(self) -> Clients | None:
        """The clients, or None if every client is served."""
        return self._clients

    @property
    def requires_keys(self) -> bool:
        """Whether a client needs a key, which then gives its name."""
        return self._clients is not None

    @property
    def clients(self) -> Mapping[str, Client]:
        """The clients, by name."""
        return {} if self._clients is None else self._clients.by_name

    @property
    def limits(self) -> Mapping[str, Limits]:
        """Each client's own limits, by name, including clients without any."""
        return {name: client.limits for name, client in self.clients.items()}

    @property
    def weights(self) -> Mapping[str, float]:
        """Each client's weight, by name."""
        return {name: client.weight for name, client in self.clients.items()}

    @property
    def spending_limits(self) -> Mapping[str, SpendingLimits]:
        """Each client's budgets, by name, including clients without any."""
        return {name: client.spending for name, client in self.clients.items()}

    def authenticate(
        self, request: web.Request, exchange: Exchange, subprotocol_key: str | None = None
    ) -> Client | None:
        """The client whose key a request has, stamped on its exchange; None without a file.

        A request with two different keys is refused, even if one of them is right. Raises
        `InvalidApiKey`.

        Args:
            subprotocol_key: the key in a WebSocket's subprotocols. A browser cannot set
                headers for a WebSocket.
        """
        if self._clients is None:
            return None
        keys = _keys(request)
        if subprotocol_key:
            keys.add(subprotocol_key)
        if len(keys) != 1:
            raise InvalidApiKey(len(keys))
        client = self._clients.find_by_key(keys.pop())
        if client is None:
            raise InvalidApiKey(1)
        exchange.client, exchange.weight = client.name, client.weight
        exchange.priority = client.cap_priority(exchange.priority)
        return client

    def current(self, client: Client | None) -> Client | None:
        """A client that was authenticated earlier, as the file describes it now.

        Raises `InvalidApiKey` if the file no longer has that client.
        """
        if client is None or self._clients is None:
            return client
        current = self._clients.by_name.get(client.name)
        if current is None:
            raise InvalidApiKey(1)
        return current


def check_model(
    client: Client | None, exchange: Exchange, facts: RequestFacts, body: bytes = b""
) -> None:
    """Raise `ModelNotAllowed` unless a client may use the model that a request names.

    Args:
        facts: what was read of the request.
        body: from which they were read.
    """
    if client is None or not client.models:
        return
    # The model that the body names at its top level need not be the one that is used.
    is_hidden = exchange.method == hdrs.METH_POST and _hides_models(exchange.path)
    is_shown = facts.readable and not is_hidden and not is_ambiguous(body)
    model = facts.model if is_shown else None
    if exchange.path.startswith(_FILE_PATHS) and model is None:
        return
    if is_shown and (model is None or client.may_use(model)):
        return
    allowed = ", ".join(client.models)
    if model is not None:
        raise ModelNotAllowed(f"Client {client.name} may not use {model!a}, only {allowed}.")
    raise ModelNotAllowed(
        f"Client {client.name} may use only {allowed}, and the gate cannot tell which model this "
        "request uses."
    )


# Requests come to a few endpoints, again and again.
@lru_cache(maxsize=CACHED_PATHS)
def _hides_models(path: str) -> bool:
    # Unquoted, since upstream accepts any percent-encoding of the path.
    return _HIDES_MODELS.fullmatch(unquote(path)) is not None


def _keys(request: web.Request) -> set[str]:
    """The different keys in a request's headers."""
    headers = request.headers
    keys = {
        value[len(_SCHEME) :].strip()
        for value in headers.getall(hdrs.AUTHORIZATION, ())
        if value.lower().startswith(_SCHEME)
    }
    for name in KEY_HEADERS:
        if name in headers:
            keys.update(value.strip() for value in headers.getall(name))
    keys.discard("")
    return keys
