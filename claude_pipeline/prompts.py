"""From a row to a request, and the address of a request.

Everything here is pure but for local files that a row names: Arrow in, bytes out. The bytes decide the `custom_id`, so
whoever changes them makes every user pay again for what they have; `tests/test_addresses.py` holds the golden file.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain, repeat
from typing import Any

import msgspec
import pyarrow as pa

from claude_pipeline.arrays import Numbers
from claude_pipeline.conversations import MessagesSlot
from claude_pipeline.media import MediaSlot
from claude_pipeline.parameters import ParamSlot, raise_limit
from claude_pipeline.templates import Template
from claude_pipeline.values import Cell, Unsendable, encode_text, read_texts, to_json

ID_BYTES = 16
_PIECE_BYTES = 1_000_000


class Request(msgspec.Struct, frozen=True, gc=False):
    """One request: its address (16 bytes), and its `params` in two parts, the first of which all rows share."""

    address: bytes
    head: bytes
    tail: bytes

    def __eq__(self, other: object) -> bool:
        """Tell whether another one asks the same, wherever its parts are cut."""
        return isinstance(other, Request) and (self.address, self.params) == (other.address, other.params)

    def __hash__(self) -> int:
        return hash(self.address)

    @property
    def params(self) -> bytes:
        """Its `params` as the bytes that are sent."""
        return self.head + self.tail

    @property
    def size(self) -> int:
        """How many bytes its `params` have."""
        return len(self.head) + len(self.tail)


@dataclass(frozen=True, slots=True)
class Requests:
    """The requests of some rows, by column.

    Attributes:
        head: What the `params` of all begin with.
        tails: The rest of each; empty where there is no request.
        addresses: 16 bytes each; empty where there is no request.
        refused: By place, why a row has none.
    """

    head: bytes
    tails: list[bytes]
    addresses: list[bytes]
    refused: dict[int, Unsendable]

    def __len__(self) -> int:
        return len(self.tails)

    def __iter__(self) -> Iterator[Request | Unsendable]:
        for place, (address, tail) in enumerate(zip(self.addresses, self.tails, strict=True)):
            yield Request(address, self.head, tail) if address else self.refused[place]

    def sendable(self, rows: Numbers) -> "RowsAsked":
        """Return those of the rows that have a request, and their requests."""
        if not self.refused:
            return rows, self
        kept = [place for place, address in enumerate(self.addresses) if address]
        tails, addresses = [self.tails[place] for place in kept], [self.addresses[place] for place in kept]
        return rows[kept], Requests(self.head, tails, addresses, {})


RowsAsked = tuple[Numbers, Requests]  # rows by their numbers, and what each asks


class TextSlot(msgspec.Struct, frozen=True, tag="text"):
    """Where a row's text goes, as a JSON string."""

    template: Template

    @property
    def columns(self) -> tuple[str, ...]:
        """Name the columns that it reads."""
        return self.template.fields

    @property
    def shared_bytes(self) -> int:
        """How much of it all rows share."""
        return sum(map(len, self.template.texts))

    def fill(self, batch: pa.RecordBatch) -> list[Cell]:
        """Return each row's text, or why it has none. Errors: InputError for a value that is no text."""
        return [text if isinstance(text, Unsendable) else encode_text(text) for text in self.template.fill(batch)]


Slot = TextSlot | MediaSlot | MessagesSlot | ParamSlot
Part = bytes | Slot


# What was written before requests were asked again stays as it is, and with it the ids of jobs.
class RequestForm(msgspec.Struct, frozen=True, omit_defaults=True):
    """What all requests of a job share, and the slots that a row fills.

    Attributes:
        header: What the address holds beside `params`: betas and salt.
        betas: The beta features that are asked for, sorted.
        salt_column: Where each row has a salt of its own.
        parts: The bytes of `params` in their order, with slots in between; the first part is bytes.
        afresh: How many times the same was asked before; each has an address of its own.
    """

    header: bytes
    betas: tuple[str, ...]
    salt_column: str | None
    parts: tuple[Part, ...]
    afresh: int = 0

    @property
    def columns(self) -> set[str]:
        """Name the columns that requests are made of."""
        slots = (part for part in self.parts if not isinstance(part, bytes))
        names = {column for slot in slots for column in slot.columns}
        return names | ({self.salt_column} if self.salt_column else set())

    @property
    def reads_files(self) -> bool:
        """Tell whether rows may name local files, which may change between two renderings."""
        return any(True for _ in self._media())

    def path_columns(self, schema: pa.Schema) -> set[str]:
        """Name the columns that may name local files."""
        return {column for slot in self._media() for column in slot.path_columns(schema)}

    def stamp(self, batch: pa.RecordBatch) -> bytes:
        """Return what tells whether the local files that rows name were changed; a batch of their columns will do."""
        return b"".join(stamp for slot in self._media() for stamp in slot.stamp(batch))

    def _media(self) -> Iterator[MediaSlot]:
        return (part for part in self.parts if isinstance(part, MediaSlot))

    @property
    def caches(self) -> bool:
        """Tell whether something that all rows share is to be cached."""
        return any(isinstance(part, bytes) and b'"cache_control":' in part for part in self.parts)

    def column_of(self, key: str) -> str | None:
        """Name the column of a parameter that rows bring along."""
        return next((part.column for part in self.parts if isinstance(part, ParamSlot) and part.key == key), None)

    def again(self, *, doubled: int, afresh: int) -> "RequestForm":
        """Return the form that asks the same with twice the limit so many times over, and afresh."""
        parts = tuple(_raise_limit(self.parts, 2**doubled)) if doubled else self.parts
        return msgspec.structs.replace(self, parts=parts, afresh=afresh)

    def render(self, batch: pa.RecordBatch) -> Iterator[Request | Unsendable]:
        """Yield each row's request, or why it has none. Errors: InputError for a value that is no text."""
        return chain.from_iterable(map(self.fill, self.pieces(batch)))

    def ask(self, batch: pa.RecordBatch, rows: Numbers) -> "Iterator[RowsAsked]":
        """Yield the requests of a batch's rows, which have these numbers. Errors: as `render`."""
        start = 0
        for piece in self.pieces(batch):
            stop = start + piece.num_rows
            yield rows[start:stop], self.fill(piece)
            start = stop

    def pieces(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """Cut a batch so that what all rows share fills no more than a megabyte, and local files come one by one."""
        shared = sum(len(part) for part in self.parts if isinstance(part, bytes))
        shared += sum(part.shared_bytes for part in self.parts if isinstance(part, TextSlot))
        names_files = any(True for slot in self._media() for _ in slot.stamp(batch))
        rows = 1 if names_files else max(1, _PIECE_BYTES // shared)
        for start in range(0, batch.num_rows, rows):
            yield batch.slice(start, rows)

    def fill(self, piece: pa.RecordBatch) -> Requests:
        """Return the requests of rows. Errors: InputError for a value that is no text."""
        prefix, *rest = self.parts
        assert isinstance(prefix, bytes)  # noqa: S101 - see `parts`
        rows = piece.num_rows
        cells = [repeat(part, rows) if isinstance(part, bytes) else part.fill(piece) for part in rest]
        filled = zip(*cells, strict=True) if cells else repeat((), rows)  # a salt may be all that differs
        requests = Requests(prefix, [], [], {})
        tails, addresses = requests.tails, requests.addresses
        for begun, row in zip(self._begin(piece, prefix), filled, strict=True):
            try:
                address, tail = begun.copy(), b"".join(row)
            except (AttributeError, TypeError):  # one of them is neither a hash nor bytes
                requests.refused[len(tails)] = next(cell for cell in (begun, *row) if isinstance(cell, Unsendable))
                tails.append(b"")
                addresses.append(b"")
                continue
            address.update(tail)
            tails.append(tail)
            addresses.append(address.digest())
        return requests

    def _begin(self, batch: pa.RecordBatch, prefix: bytes) -> Iterable[Any]:
        """Return the hash of what comes before the first slot of each row: betas and salt, and the shared bytes.

        A row whose salt is no text has an `Unsendable`.
        """
        if self.afresh:
            prefix = b"%d\n" % self.afresh + prefix
        if self.salt_column is None:
            return repeat(_hash(self.header + prefix), batch.num_rows)
        return [
            salt if isinstance(salt, Unsendable) else _hash(address_header(self.betas, salt) + prefix)
            for salt in read_texts(batch.column(self.salt_column), self.salt_column)
        ]


def _raise_limit(parts: Sequence[Part], times: int) -> Iterator[Part]:
    """Multiply `max_tokens`: it stands where rows bring it along, or before all else that may hold such a name."""
    done = any(isinstance(part, ParamSlot) and part.key == "max_tokens" for part in parts)
    for part in parts:
        if isinstance(part, ParamSlot) and part.key == "max_tokens":
            yield part.raised(times)
        elif isinstance(part, bytes) and not done:
            raised, done = raise_limit(part, times)
            yield raised
        else:
            yield part


def address_header(betas: Sequence[str], salt: str | None) -> bytes:
    """Write what the address of a request holds beside its `params`."""
    return to_json("salt", [list(betas), salt]) + b"\n"


def _hash(begun: bytes) -> blake2b:
    return blake2b(begun, digest_size=ID_BYTES)
