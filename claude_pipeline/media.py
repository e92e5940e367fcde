"""Images and documents: what a row names or holds, as content blocks."""

import os.path
import re
import stat
from binascii import b2a_base64
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal
from urllib.request import url2pathname

import msgspec
import pyarrow as pa

from claude_pipeline.cells import is_list
from claude_pipeline.errors import InputError, MissingColumnError
from claude_pipeline.templates import BLANK
from claude_pipeline.values import Cell, Unsendable, encode_text, is_text, shorten

Role = Literal["document", "image"]
_Block = tuple[bytes, bytes, bytes]  # in pieces: the one in the middle may be large

_PDF = "application/pdf"
_TAKEN = {"document": {_PDF}, "image": {"image/jpeg", "image/png", "image/gif", "image/webp"}}
_TAKEN_IN_WORDS = {"document": "a PDF or UTF-8 text", "image": "a JPEG, PNG, GIF or WebP"}
_MOST_MEGABYTES = {"document": 32, "image": 10}  # as base64: the API's limits for a request and for an image

_BYTES = (
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
    pa.types.is_fixed_size_binary,
    pa.types.is_null,  # a column of nothing but nulls
)

_WEB = re.compile(r"https?://", re.IGNORECASE)
_FILE = re.compile(r"file://(?:localhost(?=/))?", re.IGNORECASE)
_ELSEWHERE = re.compile(r"data:|[a-z][a-z0-9+.-]*://", re.IGNORECASE)

_KINDS = tuple(
    (kind, re.compile(pattern, re.DOTALL))
    for kind, pattern in (
        ("image/jpeg", rb"\xff\xd8\xff"),
        ("image/png", rb"\x89PNG\r\n\x1a\n"),
        ("image/gif", rb"GIF8[79]a"),
        ("image/webp", rb"RIFF.{4}WEBP"),
        (_PDF, rb"(?:\xef\xbb\xbf)?\s*%PDF-"),
        ("TIFF", rb"II[*+]\0|MM\0[*+]"),
        ("BMP", rb"BM.{4}\0{4}"),
        ("AVIF", rb".{4}ftypavi[fs]"),
        ("HEIC", rb".{4}ftyp(?:hei|hev|mif|msf)"),
        ("JPEG 2000", rb"\0{3}\x0cjP  "),
        ("JPEG XL", rb"\0{3}\x0cJXL |\xff\x0a"),
        ("ICO", rb"\0\0\x01\0"),
        ("PSD", rb"8BPS"),
        ("SVG", rb"(?i)(?:\xef\xbb\xbf)?\s*<(?:svg\b|(?:\?xml|!--|!doctype svg).*<svg\b)"),
        ("HTML", rb"(?i)(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html)\b"),
        ("a ZIP file, as Word and Excel ones are", rb"PK\x03\x04"),
        ("an old Office file", rb"\xd0\xcf\x11\xe0"),
    )
)


class _RefusedError(Exception):
    """A value that cannot be sent; its arguments are the error's type and message."""


class MediaSlot(msgspec.Struct, frozen=True, tag="media"):
    """Where a row's images and documents go, as content blocks with commas in between.

    Attributes:
        folder: Where relative paths begin.
        skip_null: Leave out what is null, instead of not sending the row.
        before: What stands before the blocks, if there are any.
        after: What stands behind them, if there are any. A row with nothing before, behind or in it is blank.
    """

    images: tuple[str, ...]
    documents: tuple[str, ...]
    folder: str
    skip_null: bool
    before: bytes = b""
    after: bytes = b","

    @property
    def columns(self) -> tuple[str, ...]:
        """Name the columns that it reads."""
        return (*self.documents, *self.images)

    def check_types(self, schema: pa.Schema, *, source: str) -> None:
        """Make sure that every column is there and may hold images or documents.

        Raises:
            MissingColumnError: There is no such column.
            InputError: A column's type is neither bytes nor text, nor a list of them.
        """
        for column in self.columns:
            if column not in schema.names:
                raise MissingColumnError(column, source=source, columns=schema.names)
            kind = schema.field(column).type
            if not _holds_media(kind):
                raise InputError(
                    f"Column {column!r} of {source} is {kind}, which holds no images or documents. "
                    "Give their bytes, paths or URLs, or lists of them."
                )

    def fill(self, batch: pa.RecordBatch) -> Iterator[Cell]:
        """Yield each row's blocks, or why the row has none; local files are read on the way."""
        for row in range(batch.num_rows):
            yield self._fill_row(batch, row)

    def path_columns(self, schema: pa.Schema) -> set[str]:
        """Name the columns that may name local files."""
        return {
            column for column in self.columns if column in schema.names and not _is_bytes(schema.field(column).type)
        }

    def stamp(self, batch: pa.RecordBatch) -> Iterator[bytes]:
        """Yield what tells whether a local file was changed, for every one that rows name; it is not read."""
        for column in self.path_columns(batch.schema):
            for cell in batch.column(column):
                with suppress(_RefusedError, OSError, ValueError):
                    for subject, value in _spread(cell, column):
                        if isinstance(value, str) and not _WEB.match(value):
                            found = self._locate(value, subject).stat()
                            yield f"{value}\0{found.st_size}\0{found.st_mtime_ns}\0".encode()

    def _fill_row(self, batch: pa.RecordBatch, row: int) -> Cell:
        pieces: list[bytes] = []
        try:
            for block in self._render_row(batch, row):
                pieces += (b"," if pieces else self.before, *block)
        except _RefusedError as refused:
            return Unsendable(*refused.args)
        if not (pieces or self.before or self.after):
            return BLANK
        return b"".join((*pieces, self.after)) if pieces else b""

    def _render_row(self, batch: pa.RecordBatch, row: int) -> Iterator[_Block]:
        for column in self.columns:
            role: Role = "document" if column in self.documents else "image"
            for subject, value in _spread(batch.column(column)[row], f"Column {column!r}"):
                if block := self._render(value, role, subject):
                    yield block

    def _render(self, value: bytes | str | list[Any] | None, role: Role, subject: str) -> _Block | None:
        if isinstance(value, bytes):
            return _render_bytes(value, role, subject)
        if isinstance(value, str) and value.strip():
            return self._render_text(value, role, subject)
        if self.skip_null:
            return None
        shown = "null" if value is None else shorten(repr(value))
        raise _RefusedError("missing_field", f"{subject} is {shown}. It was not sent; fill it in the input.")

    def _render_text(self, text: str, role: Role, subject: str) -> _Block:
        if _WEB.match(text):
            return f'{{"type":"{role}","source":{{"type":"url","url":'.encode(), encode_text(text), b"}}"
        path = self._locate(text, subject)
        subject = f"{subject} names {_quote(str(path))}, which"
        return _render_bytes(_read(path, role, subject), role, subject)

    def _locate(self, text: str, subject: str) -> Path:
        if match := _FILE.match(text):
            return Path(self.folder, url2pathname(text[match.end() :]))
        if _ELSEWHERE.match(text):
            raise _RefusedError(
                "unreadable_file",
                f"{subject} is {_quote(text)}, which is neither a local path nor an http(s) URL. "
                "Name a copy, or hold its bytes.",
            )
        if text.startswith("~/"):
            text = os.path.expanduser("~") + text[1:]  # noqa: PTH111  Path.home fails where there is none
        return Path(self.folder, text)


def _holds_media(kind: pa.DataType) -> bool:
    return _is_single(kind.value_type if is_list(kind) else kind)


def _is_single(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_single(kind.value_type)
    if pa.types.is_struct(kind):
        fields = {field.name: field.type for field in kind}
        is_known = fields.keys() <= {"bytes", "path"} and len(fields) == kind.num_fields
        return is_known and _is_bytes(fields.get("bytes", pa.null())) and is_text(fields.get("path", pa.null()))
    return is_text(kind) or _is_bytes(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in _BYTES)


def _spread(cell: pa.Scalar, subject: str) -> Iterator[tuple[str, Any]]:
    """Yield what a cell holds, each with its place in words; an empty list as itself."""
    try:
        value = cell.as_py()
    except UnicodeDecodeError as error:
        raise _RefusedError("invalid_text", f"{subject} is not valid UTF-8. Mend it in the input.") from error
    if isinstance(value, list) and value:
        yield from ((f"{subject}, item {number},", _unwrap(item)) for number, item in enumerate(value, 1))
    else:
        yield subject, _unwrap(value)


def _unwrap(value: Any) -> Any:  # noqa: ANN401  what Arrow holds
    """Take the bytes, else the path, of an image as Hugging Face stores it."""
    if not isinstance(value, dict):
        return value
    held = value.get("bytes")
    return value.get("path") if held is None else held


def _read(path: Path, role: Role, subject: str) -> bytes:
    try:
        found = path.stat()  # before it is opened: to open a pipe could take forever
        _check_file(found.st_mode, subject)
        _check_size(found.st_size, role, subject)
        with path.open("rb") as file:
            return file.read(found.st_size)
    except FileNotFoundError as error:
        raise _RefusedError(
            "missing_file", f"{subject} does not exist. Mend the path, or put the file there."
        ) from error
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise _RefusedError(
            "unreadable_file", f"{subject} cannot be read ({reason}). Mend the path or the file's permissions."
        ) from error


def _check_file(mode: int, subject: str) -> None:
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise _RefusedError("unreadable_file", f"{subject} is {kind}. Name a file.")


def _check_size(size: int, role: Role, subject: str) -> None:
    megabytes = _MOST_MEGABYTES[role]
    most = megabytes * 2**20 // 4 * 3
    if size > most:
        raise _RefusedError(
            "media_too_large",
            f"{subject} has {size:,} bytes; the most for one {role} is {most:,} ({megabytes} MB as base64). "
            "Make it smaller, or give a URL that the API can fetch.",
        )


def _render_bytes(data: bytes, role: Role, subject: str) -> _Block:
    _check_size(len(data), role, subject)
    kind = _tell_kind(data)
    if kind in _TAKEN[role]:
        head = f'{{"type":"{role}","source":{{"type":"base64","media_type":"{kind}","data":"'
        return head.encode(), b2a_base64(data, newline=False), b'"}}'
    if role == "document" and (text := _decode(data)):
        head = '{"type":"document","source":{"type":"text","media_type":"text/plain","data":'
        return head.encode(), encode_text(text), b"}}"
    raise _RefusedError("invalid_media", f"{subject} is not {_TAKEN_IN_WORDS[role]}; {_explain(data, kind, role)}")


def _tell_kind(data: bytes) -> str | None:
    """Name the media type that the API takes, or another format, by the first bytes."""
    beginning = data[:1024]
    return next((kind for kind, pattern in _KINDS if pattern.match(beginning)), None)


def _decode(data: bytes) -> str | None:
    """Read plain text; None if it is none, or blank."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text or text.isspace() else text


def _explain(data: bytes, kind: str | None, role: Role) -> str:
    """Say what it seems to be, and the way out."""
    other: Role = "image" if role == "document" else "document"
    if not data or data.isspace():
        return "it is empty. Make it anew."
    if kind is None:
        return "it begins like none of them. Convert it."
    if kind in _TAKEN[other]:
        return f"it seems to be {kind}. Name the column in {other}s=."
    return f"it seems to be {kind}. Convert it."


def _quote(text: str) -> str:
    """Show a path whole; of what is too long for one, such as a file's content, both ends."""
    return repr(text if len(text) <= 255 else f"{text[:120]}…{text[-120:]}")  # noqa: PLR2004  as long as a name can be
