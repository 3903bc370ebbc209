"""The WebSocket handshake: the client's request, upstream's, and the responses (RFC 6455, 4).

Each hop has its own key and accept value. Subprotocols cross as they are offered and chosen,
except the one in which browsers send an API key: upstream is offered the gate's key in its place,
and the client never sees that. Compression is negotiated between client and upstream, because
frames pass the gate unchanged. Other extensions could change what a frame is, and are not offered.
"""

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Collection
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Self

from rustygate.core.headers import Headers

# Header names, in any case, and values.
HeaderFields = Collection[tuple[str, str]]

VERSION = "13"

# A plain number: each access to a member of `HTTPStatus` costs a call.
SWITCHING_PROTOCOLS = 101
NONCE_BYTES = 16

# The subprotocol by which a client that cannot set headers sends its key.
KEY_PROTOCOL = "openai-insecure-api-key."

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_COMPRESSION = "permessage-deflate"

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VISIBLE = re.compile(r"[!-~]+")


class InvalidHandshake(Exception):
    """Upstream's response to a handshake is one that no client could accept."""


@dataclass(frozen=True, slots=True)
class WebSocketHandshake:
    """The request of a handshake: the client's own, or the one sent upstream.

    Args:
        protocols: the subprotocols offered; one of them may contain an API key.
    """

    key: str
    protocols: tuple[str, ...] = field(repr=False)
    extensions: tuple[str, ...]

    @classmethod
    def from_headers(cls, fields: HeaderFields) -> Self:
        """Read the headers of a request. Raises ValueError, with a reason for the client."""
        keys = _elements(fields, "sec-websocket-key")
        if _elements(fields, "sec-websocket-version") != [VERSION]:
            raise ValueError(f"Sec-WebSocket-Version must be {VERSION}.")
        if len(keys) != 1 or not _is_key(keys[0]):
            raise ValueError(f"Sec-WebSocket-Key must be {NONCE_BYTES} bytes in base64.")
        protocols = _elements(fields, "sec-websocket-protocol")
        if not all(map(_VISIBLE.fullmatch, protocols)):
            raise ValueError("Sec-WebSocket-Protocol must be a list of subprotocol names.")
        return cls(keys[0], tuple(protocols), _compressions(fields))

    @property
    def api_key(self) -> str | None:
        """The client's own API key, if one is offered as a subprotocol."""
        keys = (name[len(KEY_PROTOCOL) :] for name in self.protocols if carries_key(name))
        return next(keys, None)

    def upstream_headers(self, nonce: bytes, api_key: str) -> Headers:
        """The headers of the request that is sent upstream.

        Args:
            nonce: 16 random bytes.
            api_key: the gate's, which replaces the client's.
        """
        headers = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", VERSION),
            ("Sec-WebSocket-Key", b64encode(nonce).decode()),
        ]
        protocols = dict.fromkeys(_with_key(name, api_key) for name in self.protocols)
        # A key that is not a token cannot be sent this way. `Authorization` has it anyway.
        offered = [name for name in protocols if not carries_key(name) or _TOKEN.fullmatch(name)]
        if offered:
            headers.append(("Sec-WebSocket-Protocol", ", ".join(offered)))
        if self.extensions:
            headers.append(("Sec-WebSocket-Extensions", ", ".join(self.extensions)))
        return headers

    def response_headers(self, sent: "WebSocketHandshake", received: HeaderFields) -> Headers:
        """The headers of the response to the client. Raises `InvalidHandshake`.

        Args:
            sent: the request that was sent upstream.
            received: the headers of upstream's 101.
        """
        if not is_websocket_upgrade(received):
            raise InvalidHandshake("a switch to another protocol")
        if _elements(received, "sec-websocket-accept") != [_accept_value(sent.key)]:
            raise InvalidHandshake("a wrong Sec-WebSocket-Accept")
        headers = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Accept", _accept_value(self.key)),
        ]
        for chosen in _chosen_protocol(received, sent.protocols):
            headers.append(("Sec-WebSocket-Protocol", self._as_offered(chosen)))
        extensions = _elements(received, "sec-websocket-extensions")
        if extensions:
            if len(extensions) > 1 or not (sent.extensions and _is_compression(extensions[0])):
                raise InvalidHandshake("an extension that was not offered")
            headers.append(("Sec-WebSocket-Extensions", extensions[0]))
        return headers

    def _as_offered(self, chosen: str) -> str:
        """The subprotocol that upstream chose, with the client's own API key if it has one."""
        return next(filter(carries_key, self.protocols)) if carries_key(chosen) else chosen


def is_websocket_upgrade(fields: HeaderFields) -> bool:
    """Whether the headers of a request or a response are those of a switch to WebSocket."""
    upgrade = [value.strip().lower() for name, value in fields if name.lower() == "upgrade"]
    options = map(str.lower, _elements(fields, "connection"))
    return upgrade == ["websocket"] and "upgrade" in options


def carries_key(protocol: str) -> bool:
    """Whether a subprotocol contains an API key."""
    return protocol.lower().startswith(KEY_PROTOCOL)


def _with_key(protocol: str, api_key: str) -> str:
    return KEY_PROTOCOL + api_key if carries_key(protocol) else protocol


def _chosen_protocol(received: HeaderFields, offered: tuple[str, ...]) -> list[str]:
    """The subprotocol that upstream chose; empty if it chose none."""
    chosen = _elements(received, "sec-websocket-protocol")
    if len(chosen) > 1 or not set(chosen) <= set(offered):
        raise InvalidHandshake("a subprotocol that was not offered")
    return chosen


def _compressions(fields: HeaderFields) -> tuple[str, ...]:
    return tuple(filter(_is_compression, _elements(fields, "sec-websocket-extensions")))


def _is_compression(extension: str) -> bool:
    name = extension.partition(";")[0].strip().lower()
    return name == _COMPRESSION and extension.isascii() and extension.isprintable()


def _elements(fields: HeaderFields, name: str) -> list[str]:
    """The elements of a list header, from all its field lines (RFC 9110, 5.6.1)."""
    values = (value for field, value in fields if field.lower() == name)
    return [text for value in values for part in value.split(",") if (text := part.strip())]


def _is_key(text: str) -> bool:
    try:
        return len(b64decode(text, validate=True)) == NONCE_BYTES
    except (binascii.Error, ValueError):
        return False


def _accept_value(key: str) -> str:
    """The Sec-WebSocket-Accept for a key (RFC 6455, 4.2.2)."""
    return b64encode(sha1(key.encode() + _GUID).digest()).decode()
