"""How request bodies, forms and query strings become msgspec structs."""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from rustygate.simulator.errors import ApiError, Failure

Shape = TypeVar("Shape", bound=msgspec.Struct)
_PARAM = re.compile(r"(?:required field `|at `\$\.?)([^`]+)`")


def read(body: bytes | str, shape: type[Shape]) -> Shape:
    """Read a body.

    Raises:
        ApiError: it is not JSON, or not of the shape; status 400.
    """
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        raise _misfit(error) from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        message = f"The body of your request could not be read as JSON: {error}."
        raise ApiError(Failure(400, message)) from error


def convert(fields: Mapping[str, Any], shape: type[Shape], strict: bool = False) -> Shape:
    """Read fields that came as text, in a form or a query; or, if `strict`, in JSON.

    Raises:
        ApiError: they are not of the shape; status 400.
    """
    try:
        return msgspec.convert(fields, shape, strict=strict)
    except msgspec.ValidationError as error:
        raise _misfit(error) from error


def _misfit(error: msgspec.ValidationError) -> ApiError:
    """What the client is told of input that is not of its shape."""
    param = _PARAM.search(str(error))
    return ApiError(Failure(400, f"{error}.", param=param and param[1]))


async def body(request: web.Request) -> bytes:
    """A request's whole body."""
    try:
        return await request.read()
    except (HttpProcessingError, web.RequestPayloadError) as error:
        # Bad chunks, or bytes that are not of the encoding they claim.
        raise ApiError(Failure(400, "The body of your request is malformed.")) from error
