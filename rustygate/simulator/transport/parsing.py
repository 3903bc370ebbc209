"""Reading request bodies, and converting JSON, form fields and query strings to schemas."""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from rustygate.simulator.errors import ApiError, ErrorResponse

SchemaT = TypeVar("SchemaT", bound=msgspec.Struct)
_PARAM = re.compile(r"(?:required field `|at `\$\.?)([^`]+)`")


def parse_json(body: bytes | str, schema: type[SchemaT]) -> SchemaT:
    """Parse a JSON body.

    Raises:
        ApiError: the body is not JSON, or does not match the schema; status 400.
    """
    try:
        return msgspec.json.decode(body, type=schema)
    except msgspec.ValidationError as error:
        raise _validation_error(error) from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        message = f"The body of your request could not be read as JSON: {error}."
        raise ApiError(ErrorResponse(400, message)) from error


def convert(fields: Mapping[str, Any], schema: type[SchemaT], strict: bool = False) -> SchemaT:
    """Convert text fields of a form or a query string or, if `strict`, fields of a JSON object.

    Raises:
        ApiError: the fields do not match the schema; status 400.
    """
    try:
        return msgspec.convert(fields, schema, strict=strict)
    except msgspec.ValidationError as error:
        raise _validation_error(error) from error


def _validation_error(error: msgspec.ValidationError) -> ApiError:
    """The error for input that does not match its schema; it names the field, if known."""
    param = _PARAM.search(str(error))
    return ApiError(ErrorResponse(400, f"{error}.", param=param and param[1]))


async def read_body(request: web.Request) -> bytes:
    """The complete body of a request.

    Raises:
        ApiError: the body is malformed; status 400.
    """
    try:
        return await request.read()
    except (HttpProcessingError, web.RequestPayloadError) as error:
        # Invalid chunks, or bytes that are not in their declared encoding.
        raise ApiError(ErrorResponse(400, "The body of your request is malformed.")) from error
