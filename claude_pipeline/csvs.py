"""CSV files as they stand: every cell is text, none is null, none is guessed at."""

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO, NoReturn

import pyarrow as pa
import pyarrow.csv as pa_csv

from claude_pipeline.errors import InputError
from claude_pipeline.places import Place

_BOM = b"\xef\xbb\xbf"

# Arrow reads up to 32 blocks ahead, so blocks start small and only grow for a record that does not fit.
_BLOCK_SIZES = tuple((1 << 20) * 4**step for step in range(5))

# Arrow takes a file that ends inside a quote without a word. A record of ours below the last one shows it:
# it comes back whole, or it was swallowed.
_END = "\x04"


@dataclass(frozen=True, slots=True)
class Header:
    """The names of the columns, and the offset in bytes at which the records begin."""

    names: list[str]
    size: int


def read_header(path: Place) -> Header:
    """Read the first record of a CSV file, past a byte order mark and blank lines.

    Raises:
        InputError: The file is empty, its header is not UTF-8 or a quote in it is not closed.
        OSError, PlaceError: The file cannot be read.
    """
    sizes = []
    with path.open("rb") as file:
        sizes.append(_skip_bom(file))
        text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
        names = _first_record(_measured(_checked(text, path), sizes), path)
    for position, name in enumerate(names, 1):
        if not name:
            raise InputError(
                f"Column {position} of {path} has no name. "
                "Name it in the header; if it is pandas's index, write the file with index=False."
            )
    return Header(names, sum(sizes))


def read_batches(path: Place, header: Header) -> Iterator[pa.RecordBatch]:
    """Yield the records of a CSV file as text columns, about 1 MB at a time.

    Raises:
        InputError: A record has more or fewer cells than the header, is not UTF-8, is larger than 256 MB,
            or a quote is not closed; the message has the line.
        OSError, PlaceError: The file cannot be read.
    """
    done = 0
    for block_size in _BLOCK_SIZES:
        try:
            for batch in _after(_parsed(path, header, block_size=block_size), done):
                done += batch.num_rows
                yield batch
        except pa.ArrowInvalid as error:
            if "straddling" not in str(error) or block_size == _BLOCK_SIZES[-1]:
                _raise_fault(path, header, error=error)
        else:
            return


def _skip_bom(file: BinaryIO) -> int:
    if file.read(len(_BOM)) == _BOM:
        return len(_BOM)
    file.seek(0)
    return 0


def _first_record(lines: Iterator[str], path: Place) -> list[str]:
    try:
        return next(filter(None, csv.reader(lines, strict=True)))
    except StopIteration:
        raise InputError(f"{path} is empty. Its first line must name the columns.") from None
    except csv.Error as error:
        raise InputError(f"The header of {path} cannot be read ({error}). Is a quote not closed?") from error


def _measured(lines: Iterator[str], sizes: list[int]) -> Iterator[str]:
    for line in lines:
        sizes.append(len(line.encode()))
        yield line


def _checked(lines: Iterator[str], path: Place) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        try:
            line.encode()
        except UnicodeEncodeError as error:
            byte = ord(line[error.start]) - 0xDC00
            raise InputError(
                f"Line {number} of {path} is not UTF-8: byte 0x{byte:02x}. Save the file as UTF-8."
            ) from None
        yield line


class _Records(io.RawIOBase):
    """The bytes below the header, and one record of ours below them."""

    def __init__(self, file: BinaryIO, header: Header) -> None:
        super().__init__()
        self._file = file
        self._file.seek(header.size)
        self._end = f"\n{_end_line(header)}\n".encode()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        if not data:
            data, self._end = self._end, b""
        return data


def _end_line(header: Header) -> str:
    return ",".join([_END] * len(header.names))


def _parsed(path: Place, header: Header, *, block_size: int) -> Iterator[pa.RecordBatch]:
    with path.open("rb") as file, _reader(_Records(file, header), header, block_size=block_size) as reader:
        batches = filter(len, reader)
        last = next(batches)
        for batch in batches:
            yield last
            last = batch
        if not _is_end(last.slice(last.num_rows - 1)):
            message = "a quote is not closed"
            raise pa.ArrowInvalid(message)
        yield last.slice(0, last.num_rows - 1)


def _is_end(record: pa.RecordBatch) -> bool:
    return all(column[0].as_py() == _END for column in record.columns)


def _reader(records: io.RawIOBase, header: Header, *, block_size: int) -> pa_csv.CSVStreamingReader:
    return pa_csv.open_csv(
        records,
        read_options=pa_csv.ReadOptions(
            use_threads=False, block_size=block_size, column_names=header.names, encoding="utf8"
        ),
        parse_options=pa_csv.ParseOptions(newlines_in_values=True),
        convert_options=pa_csv.ConvertOptions(
            column_types=dict.fromkeys(header.names, pa.string()), strings_can_be_null=False
        ),
    )


def _after(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if rows < batch.num_rows:
            yield batch.slice(rows)
        rows = max(0, rows - batch.num_rows)


def _raise_fault(path: Place, header: Header, *, error: pa.ArrowInvalid) -> NoReturn:
    """Find the line of the first fault by a second, slower reading, for Arrow knows only blocks."""
    width = len(header.names)
    with path.open("rb") as file, _large_fields():
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        for line, record in _numbered(chain(_checked(text, path), ["\n", _end_line(header)]), path):
            if record[-1].endswith(f"\n{_end_line(header)}"):
                raise InputError(f"The record at line {line} of {path} opens a quote and never closes it.")
            if len(record) != width:
                raise InputError(
                    f"The record at line {line} of {path} has {_cells(len(record))}, the header has {width}. "
                    'Put quotes around a cell that holds a comma, and write a quote within quotes as "".'
                )
    raise InputError(f"Cannot read {path}: {error}") from error


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count} cells"


@contextmanager
def _large_fields() -> Iterator[None]:
    before = csv.field_size_limit(_BLOCK_SIZES[-1])
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _numbered(lines: Iterator[str], path: Place) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(lines)
    line = 1
    try:
        for record in reader:
            if record:
                yield line, record
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"The record at line {line} of {path} has a cell of more than {_BLOCK_SIZES[-1] >> 20} MB. "
            "Is a quote not closed?"
        ) from error
