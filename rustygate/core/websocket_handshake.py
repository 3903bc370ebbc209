"""A WebSocket's opening: what a client asks, what goes upstream, what is answered (RFC 6455, 4).

Each hop has its own key and proof. Subprotocols cross as they are offered and chosen, but for
the one that carries an API key, as browsers send it: upstream is offered the gate's, and the
client never sees that. Compression is agreed upon between client and upstream, since frames pass
the gate as they are; other extensions could change what a frame is, and are not offered.
"""

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Collection
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Self

from rustygate.core.headers import Headers

# Names, in any case, and values.
Fields = Collection[tuple[str, str]]

VERSION = "13"

# A plain number: looking a member up in `HTTPStatus` costs a call each time.
SWITCHING_PROTOCOLS = 101
NONCE_BYTES = 16

# The subprotocol by which a client that cannot set headers sends its key.
KEY_PROTOCOL = "openai-insecure-api-key."

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_COMPRESSION = "permessage-deflate"

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VISIBLE = re.compile(r"[!-~]+")


class InvalidHandshake(Exception):
    """Upstream's answer to an opening is not one that a client could take."""


@dataclass(frozen=True, slots=True)
class WebSocketHandshake:
    """What the head of an opening says, the client's own or the one that went upstream.

    Args:
        protocols: among them an API key, it may be.
    """

    key: str
    protocols: tuple[str, ...] = field(repr=False)
    extensions: tuple[str, ...]

    @classmethod
    def from_headers(cls, fields: Fields) -> Self:
        """Read a request's head. Raises ValueError, with a reason to tell, for one that is not
        as it must be."""
        keys = _elements(fields, "sec-websocket-key")
        if _elements(fields, "sec-websocket-version") != [VERSION]:
            raise ValueError(f"Sec-WebSocket-Version is not {VERSION}.")
        if len(keys) != 1 or not _is_key(keys[0]):
            raise ValueError("Sec-WebSocket-Key is not one of 16 bytes.")
        protocols = _elements(fields, "sec-websocket-protocol")
        if not all(map(_VISIBLE.fullmatch, protocols)):
            raise ValueError("Sec-WebSocket-Protocol names what is no protocol.")
        return cls(keys[0], tuple(protocols), _compressions(fields))

    @property
    def api_key(self) -> str | None:
        """The client's own key, if it is offered as a subprotocol."""
        keys = (name[len(KEY_PROTOCOL) :] for name in self.protocols if carries_key(name))
        return next(keys, None)

    def upstream_headers(self, nonce: bytes, api_key: str) -> Headers:
        """The headers of the opening that goes upstream.

        Args:
            nonce: 16 random bytes.
            api_key: the gate's, in place of the client's.
        """
        headers = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", VERSION),
            ("Sec-WebSocket-Key", b64encode(nonce).decode()),
        ]
        protocols = dict.fromkeys(_with_key(name, api_key) for name in self.protocols)
        # A key that is no token cannot be sent this way; `Authorization` has it anyway.
        offered = [name for name in protocols if not carries_key(name) or _TOKEN.fullmatch(name)]
        if offered:
            headers.append(("Sec-WebSocket-Protocol", ", ".join(offered)))
        if self.extensions:
            headers.append(("Sec-WebSocket-Extensions", ", ".join(self.extensions)))
        return headers

    def response_headers(self, sent: "WebSocketHandshake", answered: Fields) -> Headers:
        """The headers of the client's answer, from upstream's. Raises `Disagreement`.

        Args:
            sent: the opening that went upstream.
            answered: the headers that came back with its 101.
        """
        if not is_websocket_upgrade(answered):
            raise InvalidHandshake("another protocol")
        if _elements(answered, "sec-websocket-accept") != [_proof(sent.key)]:
            raise InvalidHandshake("no proof of the key")
        headers = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Accept", _proof(self.key)),
        ]
        for chosen in _one_of(_elements(answered, "sec-websocket-protocol"), sent.protocols):
            headers.append(("Sec-WebSocket-Protocol", self._own(chosen)))
        extensions = _elements(answered, "sec-websocket-extensions")
        if extensions:
            if len(extensions) > 1 or not (sent.extensions and _is_compression(extensions[0])):
                raise InvalidHandshake("an extension that was not offered")
            headers.append(("Sec-WebSocket-Extensions", extensions[0]))
        return headers

    def _own(self, chosen: str) -> str:
        """The client's own word for the subprotocol that upstream chose."""
        return next(filter(carries_key, self.protocols)) if carries_key(chosen) else chosen


def is_websocket_upgrade(fields: Fields) -> bool:
    """Whether a head is about a WebSocket: a request's asks for one, an answer's agrees to it."""
    upgrade = [value.strip().lower() for name, value in fields if name.lower() == "upgrade"]
    options = map(str.lower, _elements(fields, "connection"))
    return upgrade == ["websocket"] and "upgrade" in options


def carries_key(protocol: str) -> bool:
    """Whether a subprotocol carries an API key."""
    return protocol.lower().startswith(KEY_PROTOCOL)


def _with_key(protocol: str, api_key: str) -> str:
    return KEY_PROTOCOL + api_key if carries_key(protocol) else protocol


def _one_of(chosen: list[str], offered: tuple[str, ...]) -> list[str]:
    if len(chosen) > 1 or not set(chosen) <= set(offered):
        raise InvalidHandshake("a subprotocol that was not offered")
    return chosen


def _compressions(fields: Fields) -> tuple[str, ...]:
    return tuple(filter(_is_compression, _elements(fields, "sec-websocket-extensions")))


def _is_compression(extension: str) -> bool:
    name = extension.partition(";")[0].strip().lower()
    return name == _COMPRESSION and extension.isascii() and extension.isprintable()


def _elements(fields: Fields, name: str) -> list[str]:
    """The elements of a header that is a list, over all its lines (RFC 9110, 5.6.1)."""
    values = (value for field, value in fields if field.lower() == name)
    return [text for value in values for part in value.split(",") if (text := part.strip())]


def _is_key(text: str) -> bool:
    try:
        return len(b64decode(text, validate=True)) == NONCE_BYTES
    except (binascii.Error, ValueError):
        return False


def _proof(key: str) -> str:
    """What answers a key (RFC 6455, 4.2.2)."""
    return b64encode(sha1(key.encode() + _GUID).digest()).decode()
