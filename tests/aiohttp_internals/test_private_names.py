"""The private names of aiohttp that the gate relies on exist, and only one package uses them.

After an update of aiohttp, a failure here names the module to adapt.
"""

import ast
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import aiohttp
import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "rustygate" / "aiohttp_internals"
MODULES = sorted((ROOT / "rustygate").rglob("*.py"))


@dataclass(frozen=True, slots=True)
class Name:
    """A name of aiohttp. `owner` is a class or a module; `signature` is that of a method or a
    class, without defaults: an optional parameter ends in `=`."""

    module: str
    owner: str
    name: str
    signature: str | None = None

    def __str__(self) -> str:
        return f"{self.owner.rpartition('.')[2]}.{self.name}"


CLIENT, RESPONSE, SERVER = "client.py", "response.py", "server.py"

# Every private name that the package uses.
PRIVATE_NAMES = [
    # Connections to upstream.
    Name(CLIENT, "aiohttp.base_protocol.BaseProtocol", "_loop"),
    Name(CLIENT, "aiohttp.base_protocol.BaseProtocol", "_parser"),
    Name(CLIENT, "aiohttp.base_protocol.BaseProtocol", "_reading_paused"),
    Name(CLIENT, "aiohttp.DataQueue", "_waiter"),
    Name(CLIENT, "aiohttp.client_proto.ResponseHandler", "_payload"),
    Name(CLIENT, "aiohttp.client_proto.ResponseHandler", "_read_timeout"),
    Name(CLIENT, "aiohttp.client_proto.ResponseHandler", "_read_timeout_handle"),
    Name(CLIENT, "aiohttp.client_proto.ResponseHandler", "_drop_timeout", "self"),
    Name(CLIENT, "aiohttp.client_proto.ResponseHandler", "_on_read_timeout", "self"),
    Name(CLIENT, "aiohttp.client_proto.ResponseHandler", "_reschedule_timeout", "self"),
    Name(CLIENT, "aiohttp.BaseConnector", "_factory"),
    Name(CLIENT, "aiohttp.TCPConnector", "_create_connection", "self, req, traces, timeout"),
    Name(CLIENT, "aiohttp.StreamReader", "_eof_callbacks"),
    Name(CLIENT, "aiohttp.StreamReader", "_read_nowait", "self, n"),
    # Responses to clients.
    Name(RESPONSE, "aiohttp.web.BaseRequest", "_prepare_hook", "self, response"),
    Name(RESPONSE, "aiohttp.web.StreamResponse", "_eof_sent"),
    Name(RESPONSE, "aiohttp.web.StreamResponse", "_headers"),
    Name(RESPONSE, "aiohttp.web.StreamResponse", "_keep_alive"),
    Name(RESPONSE, "aiohttp.web.StreamResponse", "_must_be_empty_body"),
    Name(RESPONSE, "aiohttp.web.StreamResponse", "_payload_writer"),
    Name(RESPONSE, "aiohttp.web.StreamResponse", "_prepare_headers", "self"),
    Name(RESPONSE, "aiohttp.web.StreamResponse", "_req"),
    Name(RESPONSE, "aiohttp.web.StreamResponse", "_start", "self, request"),
    # Connections from clients.
    Name(SERVER, "aiohttp.base_protocol.BaseProtocol", "_loop"),
    Name(SERVER, "aiohttp.base_protocol.BaseProtocol", "_pause_transport_reading", "self"),
    Name(SERVER, "aiohttp.base_protocol.BaseProtocol", "_upgraded"),
    Name(SERVER, "aiohttp.StreamReader", "_buffer"),
    Name(SERVER, "aiohttp.StreamReader", "_wait", "self, func_name"),
    Name(SERVER, "aiohttp.web.AppRunner", "_make_server", "self"),
    Name(SERVER, "aiohttp.web.BaseRequest", "_cache"),
    Name(SERVER, "aiohttp.web.BaseRequest", "_headers"),
    Name(SERVER, "aiohttp.web.BaseRequest", "_message"),
    Name(SERVER, "aiohttp.web.BaseRequest", "_payload"),
    Name(SERVER, "aiohttp.web.BaseRequest", "_version"),
    Name(SERVER, "aiohttp.web.Request", "_match_info"),
    Name(SERVER, "aiohttp.web.RequestHandler", "_current_request"),
    Name(SERVER, "aiohttp.web.RequestHandler", "_lingering_time"),
    Name(SERVER, "aiohttp.web.RequestHandler", "_messages"),
    Name(SERVER, "aiohttp.web.RequestHandler", "_request_count"),
    Name(SERVER, "aiohttp.web.RequestHandler", "_keepalive_timeout"),
    Name(SERVER, "aiohttp.web.RequestHandler", "_next_keepalive_close_time"),
    Name(SERVER, "aiohttp.web.RequestHandler", "_waiter"),
    Name(SERVER, "aiohttp.web.Server", "_kwargs"),
    Name(SERVER, "aiohttp.web.Server", "_loop"),
    Name(SERVER, "aiohttp.web.RequestHandler", "_buffer_paused"),
    Name(SERVER, "aiohttp.web.RequestHandler", "_close"),
    Name(SERVER, "aiohttp.web.RequestHandler", "_force_close"),
    Name(
        SERVER,
        "aiohttp.web.RequestHandler",
        "_handle_request",
        "self, request, start_time, request_handler",
    ),
    Name(SERVER, "aiohttp.web.RequestHandler", "_keepalive"),
    Name(SERVER, "aiohttp.web.RequestHandler", "_keepalive_handle"),
    Name(SERVER, "aiohttp.web.RequestHandler", "_make_error_handler", "self, err_info"),
    Name(SERVER, "aiohttp.web.RequestHandler", "_max_msg_queue_size"),
    Name(SERVER, "aiohttp.web.RequestHandler", "_msg_queue_resume_size"),
    Name(SERVER, "aiohttp.web.RequestHandler", "_parser"),
    Name(SERVER, "aiohttp.web.RequestHandler", "_process_keepalive", "self"),
    Name(SERVER, "aiohttp.web.RequestHandler", "_read_bufsize"),
    Name(SERVER, "aiohttp.web.RequestHandler", "_request_factory"),
    Name(SERVER, "aiohttp.web.RequestHandler", "_request_handler"),
    Name(SERVER, "aiohttp.web.RequestHandler", "_resume_reading_if_drained", "self"),
    Name(SERVER, "aiohttp.web.RequestHandler", "_task_handler"),
    Name(SERVER, "aiohttp.web.BaseRequest", "_task"),
    Name(SERVER, "aiohttp.web_protocol", "_ErrInfo", "status, exc, message"),
    Name(SERVER, "aiohttp.web_protocol", "_PAYLOAD_ACCESS_ERROR"),
]

# Methods without an underscore that the package overrides, but that aiohttp does not document.
OVERRIDDEN_METHODS = [
    Name(CLIENT, "aiohttp.client_proto.ResponseHandler", "data_received", "self, data"),
    Name(CLIENT, "aiohttp.client_proto.ResponseHandler", "pause_reading", "self"),
    Name(CLIENT, "aiohttp.client_proto.ResponseHandler", "read", "self"),
    Name(CLIENT, "aiohttp.client_proto.ResponseHandler", "resume_reading", "self, resume_parser="),
    Name(CLIENT, "aiohttp.client_proto.ResponseHandler", "set_exception", "self, exc, exc_cause="),
    Name(CLIENT, "aiohttp.client_proto.ResponseHandler", "start_timeout", "self"),
    Name(SERVER, "aiohttp.web.RequestHandler", "data_received", "self, data"),
    Name(
        SERVER,
        "aiohttp.web.RequestHandler",
        "handle_error",
        "self, request, status=, exc=, message=",
    ),
    Name(SERVER, "aiohttp.web.RequestHandler", "resume_reading", "self, resume_parser="),
    Name(SERVER, "aiohttp.web.RequestHandler", "start", "self"),
]


# The installed aiohttp.


def problem(name: Name) -> str | None:
    """What is wrong with a name, in a sentence; None if the installed aiohttp has it."""
    advice = f"adapt rustygate/aiohttp_internals/{name.module}"
    owner = resolve(name.owner)
    is_class = inspect.isclass(owner)
    names = names_in_class(owner) if is_class else set(vars(owner))
    if name.name not in names:
        return f"aiohttp {aiohttp.__version__} has no {name}: {advice}"
    if name.signature is None:
        return None
    found = signature(getattr(owner, name.name))
    if found != name.signature:
        return (
            f"aiohttp {aiohttp.__version__} has {name}({found}), not ({name.signature}): {advice}"
        )
    return None


def resolve(path: str) -> Any:
    """A module, or a class in a module."""
    try:
        return import_module(path)
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        return getattr(import_module(module), name)


def signature(function: Callable[..., Any]) -> str:
    parameters = inspect.signature(function).parameters.values()
    optional = inspect.Parameter.empty
    return ", ".join(each.name + "=" * (each.default is not optional) for each in parameters)


@cache
def names_in_class(cls: type) -> set[str]:
    """The methods and attributes that a class gets from the classes of aiohttp."""
    names: set[str] = set()
    for base in cls.__mro__:
        if base.__module__.split(".")[0] == "aiohttp":
            names.update(declared(ast.parse(inspect.cleandoc("\n" + inspect.getsource(base)))))
    return names


def declared(tree: ast.AST) -> Iterator[str]:
    """The names of functions and classes, of attributes that are assigned, and in `__slots__`."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case ast.Attribute(value=ast.Name(id="self"), ctx=ast.Store()):
                yield node.attr
            case ast.Name(ctx=ast.Store()):
                yield node.id
            case ast.Constant(value=str(slot)):
                yield slot


@pytest.mark.parametrize("name", PRIVATE_NAMES + OVERRIDDEN_METHODS, ids=str)
def test_installed_aiohttp_has_the_name(name: Name) -> None:
    assert problem(name) is None, problem(name)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            Name(SERVER, "aiohttp.web.RequestHandler", "_gone"),
            "has no RequestHandler._gone: adapt rustygate/aiohttp_internals/server.py",
        ),
        (
            Name(SERVER, "aiohttp.web_protocol", "_Gone", "status"),
            "has no web_protocol._Gone: adapt rustygate/aiohttp_internals/server.py",
        ),
        (
            Name(CLIENT, "aiohttp.StreamReader", "_read_nowait", "self"),
            "has StreamReader._read_nowait(self, n), not (self): "
            "adapt rustygate/aiohttp_internals/client.py",
        ),
    ],
    ids=["attribute", "class", "signature"],
)
def test_missing_name_is_reported_with_the_module_to_adapt(name: Name, sentence: str) -> None:
    assert problem(name) == f"aiohttp {aiohttp.__version__} {sentence}"


# The gate's own modules.


def aiohttp_names() -> set[str]:
    """Every private name that aiohttp declares, except in its worker for Gunicorn."""
    paths = set(Path(aiohttp.__path__[0]).rglob("*.py"))
    paths = {path for path in paths if path.name != "worker.py"}
    names = {name for path in paths for name in declared(ast.parse(path.read_text()))}
    return set(filter(is_private, names))


def is_private(name: str) -> bool:
    # `_fields` is a public attribute of named tuples.
    return name.startswith("_") and not name.endswith("_") and name != "_fields"


def private_names_used(tree: ast.Module, classes: dict[str, type]) -> set[str]:
    """The private names of aiohttp that a module imports, overrides, reads or assigns."""
    own = set(declared(tree))
    names = {name for name in _imported(tree) if is_private(name)}
    names |= {name for name in _attributes_of_others(tree) if name not in own}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name in classes:
            names |= (set(declared(node)) | set(_own_attributes(node))) & names_in_class(
                classes[node.name]
            )
    return set(filter(is_private, names)) & AIOHTTP_NAMES


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "aiohttp":
            yield from (alias.name for alias in node.names)


def _attributes_of_others(tree: ast.AST) -> Iterator[str]:
    """The attributes of anything but `self`, `cls` and `super()`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not _is_self(node.value):
            yield node.attr


def _own_attributes(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_self(node.value):
            yield node.attr


def _is_self(node: ast.expr) -> bool:
    match node:
        case ast.Name(id="self" | "cls") | ast.Call(func=ast.Name(id="super")):
            return True
    return False


AIOHTTP_NAMES = aiohttp_names()


def private_names_in(path: Path) -> set[str]:
    """The private names of aiohttp that a file uses."""
    module = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    return private_names_used(ast.parse(path.read_text()), dict(inspect.getmembers(module)))


@pytest.mark.parametrize("module", [CLIENT, RESPONSE, SERVER])
def test_list_has_every_private_name_that_the_package_uses(module: str) -> None:
    listed = {name.name for name in PRIVATE_NAMES if name.module == module}
    assert private_names_in(PACKAGE / module) == listed


def test_list_covers_every_module_of_the_package() -> None:
    modules = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}
    assert modules == {name.module for name in PRIVATE_NAMES}


OTHERS = [path for path in MODULES if PACKAGE not in path.parents and path.name != "__main__.py"]


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_other_modules_use_no_private_name(path: Path) -> None:
    names = private_names_in(path)
    where = path.relative_to(ROOT)
    assert not names, f"{where} uses {names} of aiohttp: move that to rustygate/aiohttp_internals"


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("from aiohttp.web_protocol import _ErrInfo", {"_ErrInfo"}),
        ("def f(request): return request._match_info", {"_match_info"}),
        ("def f(request): request.protocol._lingering_time = 0", {"_lingering_time"}),
        ("class Own(web.RequestHandler):\n def f(self): self._waiter = 1", {"_waiter"}),
        ("class Own(web.RequestHandler):\n def f(self): return self._loop", {"_loop"}),
        ("class Own(web.RequestHandler):\n _messages = 1", {"_messages"}),
        ("class Own(web.RequestHandler):\n def _handle_request(self): 1", {"_handle_request"}),
        ("class Own(web.RequestHandler):\n def f(self): self._own = 1", set()),
        ("class Other:\n def f(self, other): self._waiter = other._waiter", set()),
        ("def f(request): return request.match_info", set()),
    ],
)
def test_private_names_of_aiohttp_are_found_in_source(source: str, names: set[str]) -> None:
    classes: dict[str, type] = {"Own": aiohttp.web.RequestHandler}
    assert private_names_used(ast.parse(source), classes) == names
