"""What all requests to a model have in common, and how bodies are read.

Bodies come from strangers. Their shapes are declared as msgspec structs, which refuse what does
not fit; fields that are not declared are passed over.
"""

import re
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from secrets import token_hex
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from rustygate.simulator.errors import ApiError, Failure
from rustygate.simulator.text import LONGEST

Name = Annotated[str, Meta(min_length=1, max_length=512)]
Cap = Annotated[int, Meta(ge=1, le=LONGEST)] | None


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens an answer took."""

    tokens_in: int
    tokens_out: int

    @property
    def total(self) -> int:
        return self.tokens_in + self.tokens_out


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream; `paced` if it carries a token, which takes its time."""

    data: str
    name: str | None = None
    paced: bool = False


class Asked(msgspec.Struct, kw_only=True):
    """A request to a model.

    `wanted` is how many tokens the answer shall have, where a fault says so.
    """

    model: Name
    user: Name | None = None

    @abstractmethod
    def cost(self, wanted: int | None) -> int:
        """The tokens it counts for, before it is answered."""

    @abstractmethod
    def usage(self, wanted: int | None) -> Usage:
        """The tokens its answer takes."""

    @abstractmethod
    def plain(self, wanted: int | None) -> dict[str, Any]:
        """The whole answer as one object."""


class Streamable(Asked, kw_only=True):
    """A request whose answer can come as a stream."""

    stream: bool | None = None

    @abstractmethod
    def events(self, wanted: int | None) -> Iterator[Event]:
        """The answer as a stream."""


class Part(msgspec.Struct):
    """A part of a message's content; only text has characters to count."""

    type: str
    text: str = ""


Content = str | list[Part] | None


class Format(msgspec.Struct):
    """How the answer shall be written."""

    type: Literal["text", "json_object", "json_schema"] = "text"

    @property
    def is_json(self) -> bool:
        return self.type != "text"


def text_of(content: Content) -> str:
    """A content's text."""
    if isinstance(content, str):
        return content
    return "".join(part.text for part in content or ())


AnyAsked = TypeVar("AnyAsked", bound=Asked)
_PARAM = re.compile(r"(?:required field `|at `\$\.?)([^`]+)`")


def read(body: bytes, kind: type[AnyAsked]) -> AnyAsked:
    """Read a body.

    Raises:
        ApiError: it is not JSON, or not of the shape; status 400.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        param = _PARAM.search(str(error))
        raise ApiError(Failure(400, f"{error}.", param=param and param[1])) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"The body of your request could not be read as JSON: {error}."
        raise ApiError(Failure(400, message)) from error


def json_text(value: Any) -> str:
    """JSON as OpenAI writes it: compact, characters as they are."""
    return msgspec.json.encode(value).decode()


def new_id(prefix: str) -> str:
    """An identifier like OpenAI's."""
    return f"{prefix}{token_hex(16)}"
