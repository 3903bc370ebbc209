"""The text fields of a form, of type multipart/form-data (RFC 7578) or URL-encoded.

A form is read where it lies: files are skipped with one search each, and only short names and
values are copied. Forms come from outside. Whatever is in them, these functions return and do not
raise.

Readers of forms differ in what they make of an odd one: a repeated field, a bare line feed, a
second name. An odd form is read as far as possible, but is not `clear`: upstream may find other
fields in it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

# More than any form for a model has. Each field costs time.
FIELDS_LIMIT = 1000

# Bytes of a part's headers; Go's and Python's readers allow about as many.
PART_HEAD_LIMIT = 8 * 1024

# Bytes of a field's value that is read. A longer one counts with its length only.
VALUE_LIMIT = 256 * 1024

# Bytes of a field's name with percent-encoding. The longest name of interest has 21 characters.
NAME_LIMIT = 128

# A boundary has at most 70 characters (RFC 2046, 5.1.1).
BOUNDARY_LIMIT = 256

# Fields that are never files.
TEXT_FIELDS = frozenset({b"model", b"stream"})

_FORM_TYPES = ("multipart/", "application/x-www-form-urlencoded")

_BOUNDARY = re.compile(r';[ \t]*boundary[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]+))', re.I)
_QUOTED_PAIR = re.compile(r"\\(.)")

# What follows a boundary in its line: the mark of the last one, and spaces (RFC 2046, 5.1.1).
_DELIMITER_END = re.compile(rb"(--)?[ \t]*(\r?\n|\Z)")
_HEAD_END = re.compile(rb"\r?\n\r?\n")

_DISPOSITION = re.compile(rb"^content-disposition[ \t]*:[ \t]*form-data[ \t]*(;.*)$", re.I | re.M)
_PARAMETER = re.compile(rb';[ \t]*([\w*-]+)[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|[^\s;"]*)[ \t\r]*')
# What makes another text of a part's bytes.
_RECODED = re.compile(
    rb"^content-transfer-encoding[ \t]*:(?![ \t]*(?:7bit|8bit|binary)[ \t]*\r?$)"
    rb"|;[ \t]*charset[ \t]*=(?![ \t]*\"?(?:utf-8|us-ascii)\b)",
    re.I | re.M,
)


@dataclass(slots=True)
class Form:
    """What was read of a form.

    Args:
        fields: the values of text fields, by name.
        lengths: the lengths in bytes of values that are too long to be read.
        clear: whether the form is whole, and any reader finds the same fields in it.
    """

    fields: dict[str, str] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    clear: bool = True

    def add(self, name: bytes, value: bytes) -> None:
        """Add a field. A repeated one keeps its first value."""
        try:
            text_name, text = name.decode(), value.decode()
        except UnicodeDecodeError:
            self.clear = False
            return
        if self.fields.setdefault(text_name, text) != text:
            self.clear = False


def is_form(content_type: str) -> bool:
    """Whether a Content-Type is that of a form."""
    return content_type.lower().startswith(_FORM_TYPES)


def read_form(body: bytes, content_type: str) -> Form:
    """Read a form, or as much of it as has arrived.

    Args:
        content_type: of the body, as sent; `is_form` is true for it.
    """
    form = Form()
    if not content_type.lower().startswith("multipart/"):
        _read_pairs(body, form)
        return form
    boundary = boundary_in(content_type)
    if boundary is None or not content_type.lower().startswith("multipart/form-data"):
        form.clear = False
    else:
        _read_parts(body, b"--" + boundary, form)
    return form


def boundary_in(content_type: str) -> bytes | None:
    """The boundary that a Content-Type names; None unless it names exactly one."""
    named = _BOUNDARY.findall(content_type)
    if len(named) != 1:
        return None
    quoted, token = named[0]
    boundary = _QUOTED_PAIR.sub(r"\1", quoted) or token
    is_usable = 0 < len(boundary) <= BOUNDARY_LIMIT and boundary.isascii()
    return boundary.encode() if is_usable and boundary.isprintable() else None


# Multipart.


def _read_parts(body: bytes, delimiter: bytes, form: Form) -> None:
    """Read the parts between the delimiters."""
    start = None
    for line_start, line_end, is_last in _delimiter_lines(body, delimiter, form):
        if start is not None:
            _read_part(body, start, line_start, form)
        elif line_start:
            # A preamble, which some readers take for a part.
            form.clear = False
        if is_last:
            # Nor does every reader stop here.
            form.clear &= len(body) - line_end <= len(b"\r\n")
            return
        start = line_end
    # The last delimiter is missing.
    form.clear = False


def _delimiter_lines(body: bytes, delimiter: bytes, form: Form) -> Iterator[tuple[int, int, bool]]:
    """Where the content before each delimiter ends and the part after it starts, and whether it is
    the last one."""
    position = 0 if body.startswith(delimiter) else _find_line(body, delimiter, 0)
    for _ in range(FIELDS_LIMIT):
        if position < 0:
            return
        end = _DELIMITER_END.match(body, position + len(delimiter))
        if end is None:
            form.clear = False
        else:
            content_end = _before_line_break(body, position, form)
            form.clear &= end[2] != b"\n"
            yield content_end, end.end(), end[1] is not None
        position = _find_line(body, delimiter, position + 1)
    form.clear = False


def _find_line(body: bytes, delimiter: bytes, start: int) -> int:
    found = body.find(b"\n" + delimiter, max(0, start - 1))
    return found + 1 if found >= 0 else -1


def _before_line_break(body: bytes, position: int, form: Form) -> int:
    """The end of what precedes a delimiter; the line break is the delimiter's."""
    if not position:
        return 0
    if body[position - 2 : position] == b"\r\n":
        return position - 2
    form.clear = False
    return position - 1


def _read_part(body: bytes, start: int, end: int, form: Form) -> None:
    """Read the part whose headers start at `start`, if it is a text field."""
    head_end = _HEAD_END.search(body, start, min(end, start + PART_HEAD_LIMIT))
    if head_end is None:
        form.clear = False
        return
    head = body[start : head_end.start()]
    form.clear &= head_end[0] == b"\r\n\r\n" and b"\n" not in head.replace(b"\r\n", b"")
    name = _field_name(head, form)
    if name is None:
        return
    if end - head_end.end() > VALUE_LIMIT:
        form.lengths[name.decode(errors="replace")] = end - head_end.end()
    else:
        form.add(name, body[head_end.end() : end])


def _field_name(head: bytes, form: Form) -> bytes | None:
    """The name of a text field; None for a file, and for a part without a name."""
    dispositions = _DISPOSITION.findall(head)
    given = dispositions[0] if len(dispositions) == 1 else b""
    parameters = [(name.lower(), value) for name, value in _PARAMETER.findall(given)]
    names = [value.strip(b'"') for name, value in parameters if name == b"name"]
    is_file = any(name.startswith(b"filename") for name, _ in parameters)
    if _PARAMETER.sub(b"", given) or len(names) != 1 or _is_odd(names[0], head, is_file):
        form.clear = False
    # Extended parameters (RFC 8187) are for file names only.
    form.clear &= all(name != b"name*" for name, _ in parameters)
    return None if is_file or not names else names[0]


def _is_odd(name: bytes, head: bytes, is_file: bool) -> bool:
    """Whether readers may differ about a part's name, or about its bytes as text."""
    if is_file:
        return name in TEXT_FIELDS
    return b"\\" in name or _RECODED.search(head) is not None


# URL-encoded.


def _read_pairs(body: bytes, form: Form) -> None:
    """Read `name=value` pairs (WHATWG URL, 5.1)."""
    # `;` was a separator once, and a brace may begin JSON, whatever the type says.
    form.clear &= b";" not in body and b"{" not in body
    start = 0
    for _ in range(FIELDS_LIMIT):
        end = body.find(b"&", start)
        end = len(body) if end < 0 else end
        _read_pair(body, start, end, form)
        start = end + 1
        if end == len(body):
            return
    form.clear = False


def _read_pair(body: bytes, start: int, end: int, form: Form) -> None:
    equals = body.find(b"=", start, end)
    if equals < 0 or equals - start > NAME_LIMIT:
        return
    name = _unquoted(body[start:equals])
    value = equals + 1
    if end - value > VALUE_LIMIT:
        form.lengths[name.decode(errors="replace")] = end - value
    else:
        form.add(name, _unquoted(body[value:end]))


def _unquoted(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" "))
