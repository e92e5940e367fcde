"""From result lines to Arrow: which lines came, what each says, and who should be asked again.

Pure but for the spool file that the lines lie in. Lines come in any order; the shard's order decides.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from claude_pipeline.arrays import make_record_batch
from claude_pipeline.errors import ResultsError
from claude_pipeline.pricing import PriceList, TokenUsage
from claude_pipeline.shards import Members

RESULT_FIELDS = [
    pa.field("result_type", pa.string()),
    pa.field("response", pa.large_string()),
    pa.field("stop_reason", pa.string()),
    pa.field("model", pa.string()),
    pa.field("input_tokens", pa.int64()),
    pa.field("output_tokens", pa.int64()),
    pa.field("cache_read_input_tokens", pa.int64()),
    pa.field("cache_creation_input_tokens", pa.int64()),
    pa.field("cost_usd", pa.float64()),
    pa.field("error_type", pa.string()),
    pa.field("error_message", pa.string()),
    pa.field("request_id", pa.string()),
]
RESULT_SCHEMA = pa.schema([*RESULT_FIELDS, pa.field("line", pa.large_binary())])
DECODE_BYTES = 4_000_000

Verdict = Literal["succeeded", "final", "again", "account", "canceled", "missing"]
MISSING_MESSAGE = "Its line is missing from the results of {batch_ids}, where it may have been billed."

_NO_CREDIT = re.compile(r"credit balance is too low", re.IGNORECASE)
_ACCOUNT_ERRORS = frozenset({"authentication_error", "permission_error", "billing_error"})
_FINAL_ERRORS = frozenset({"invalid_request_error", "not_found_error", "request_too_large"})


class _Block(msgspec.Struct, gc=False):
    type: str
    text: str | None = None
    citations: list[msgspec.Raw] | None = None


class _CacheCreation(msgspec.Struct, gc=False):
    ephemeral_1h_input_tokens: int = 0


class _ServerToolUse(msgspec.Struct, gc=False):
    web_search_requests: int = 0


class _Usage(msgspec.Struct, gc=False):
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: _CacheCreation | None = None
    server_tool_use: _ServerToolUse | None = None


class _Message(msgspec.Struct, gc=False):
    model: str
    content: list[_Block]
    usage: _Usage
    stop_reason: str | None = None


class _ErrorDetail(msgspec.Struct, gc=False):
    type: str
    message: str = ""


class _Spent(msgspec.Struct, gc=False):
    """What a streamed request has used that came to no answer; the API's own lines have none."""

    model: str
    usage: _Usage


class _ErrorBody(msgspec.Struct, gc=False):
    error: _ErrorDetail
    request_id: str | None = None


class _Succeeded(msgspec.Struct, gc=False, tag="succeeded"):
    message: _Message


class _Errored(msgspec.Struct, gc=False, tag="errored"):
    error: _ErrorBody
    spent: _Spent | None = None


class _Canceled(msgspec.Struct, gc=False, tag="canceled"):
    pass


class _Expired(msgspec.Struct, gc=False, tag="expired"):
    pass


class _Line(msgspec.Struct, gc=False):
    result: _Succeeded | _Errored | _Canceled | _Expired


class _Address(msgspec.Struct, gc=False):
    custom_id: str


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_address = msgspec.json.Decoder(_Address).decode


@dataclass(frozen=True, slots=True)
class Spool:
    """Where each request's line lies in a spooled results file, in the shard's order."""

    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int32]

    @property
    def missing(self) -> frozenset[int]:
        """The positions whose line did not come."""
        return frozenset(np.flatnonzero(self.lengths == 0).tolist())


def spool_lines(
    chunks: Iterable[bytes], members: Members, file: BinaryIO, *, absent: frozenset[int] = frozenset()
) -> Spool:
    """Write result lines to a file, and note where the line of each request lies.

    Only lines at the positions `absent` may be missing. A file that begins with a stranger's line is read no further.

    Raises:
        ResultsError: Lines are missing, doubled, strange or garbled: the file is not what was sent.
    """
    positions = {address: position for position, address in enumerate(members.split())}
    spool = Spool(np.full(len(members), -1, dtype=np.int64), np.zeros(len(members), dtype=np.int32))
    faults = dict.fromkeys(("unknown", "doubled", "unreadable"), 0)
    for offset, line in _lines(chunks, file):
        position = _position(line, positions)
        if position == "unknown" and not offset:
            raise ResultsError(f"The first result belongs to none of the {len(members):,} requests.", strangers=1)
        if isinstance(position, str):
            faults[position] += 1
        elif spool.lengths[position]:
            faults["doubled"] += 1
        else:
            spool.offsets[position], spool.lengths[position] = offset, len(line)
    if any(faults.values()) or not spool.missing <= absent:
        raise _disagreement(members, spool.missing, faults)
    return spool


def _disagreement(members: Members, missing: frozenset[int], faults: dict[str, int]) -> ResultsError:
    found = ", ".join(f"{count:,} {fault}" for fault, count in (faults | {"missing": len(missing)}).items() if count)
    message = f"The results of {len(members):,} requests do not agree with what was sent: {found}."
    return ResultsError(message, strangers=faults["unknown"], missing=frozenset() if any(faults.values()) else missing)


def _lines(chunks: Iterable[bytes], file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    offset = 0
    rest = b""
    for chunk in chunks:
        file.write(chunk)
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.strip():
                yield offset, line
            offset += len(line) + 1
    if rest.strip():
        yield offset, rest
    file.flush()


def _position(line: bytes, positions: dict[bytes, int]) -> int | str:
    try:
        custom_id = _decode_address(line).custom_id
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "unreadable"
    try:
        return positions[bytes.fromhex(custom_id)]
    except (KeyError, ValueError):
        return "unknown"


@dataclass(frozen=True, slots=True)
class Decoded:
    """A run of results in the shard's order, and the verdict on each.

    Attributes:
        cache_saved_usd: What the prompt cache saved on each that it took part in; None without a known price.
    """

    batch: pa.RecordBatch
    verdicts: list[Verdict]
    cache_saved_usd: list[float | None]


def decode(file: BinaryIO, spool: Spool, prices: PriceList, *, batch_id: str = "") -> Iterator[Decoded]:
    """Decode spooled lines in the shard's order, at most about 4 MB of them at a time; a missing one is errored.

    Raises:
        ResultsError: A line is not a result.
    """
    for start, stop in _runs(spool.lengths):
        rows, verdicts, saved = [], [], []
        for offset, length in zip(spool.offsets[start:stop].tolist(), spool.lengths[start:stop].tolist(), strict=True):
            line = os.pread(file.fileno(), length, offset) if length else None
            row, verdict, usd = decode_row(line, prices) if line else (_missing_row(batch_id), "missing", 0.0)
            rows.append(row)
            verdicts.append(verdict)
            if usd != 0:
                saved.append(usd)
        yield Decoded(make_record_batch(rows, RESULT_SCHEMA), verdicts, saved)


def _runs(lengths: npt.NDArray[np.int32]) -> Iterator[tuple[int, int]]:
    runs = np.cumsum(lengths, dtype=np.int64) // DECODE_BYTES
    edges = [0, *(np.flatnonzero(np.diff(runs)) + 1).tolist(), len(lengths)]
    yield from ((start, stop) for start, stop in pairwise(edges) if start < stop)


_Row = tuple[object, ...]


def _missing_row(batch_id: str) -> _Row:
    return ("errored", *[None] * 7, 0.0, "missing", MISSING_MESSAGE.format(batch_ids=batch_id), None, None)


def decode_row(line: bytes, prices: PriceList) -> tuple[_Row, Verdict, float | None]:
    """Return what `RESULT_SCHEMA` says of a result line, the verdict on it, and what the cache saved in dollars.

    Raises:
        ResultsError: It is no result.
    """
    try:
        result = _decode_line(line).result
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ResultsError(f"A result line is not what the API documents ({error}): {line[:80]!r}") from error
    match result:
        case _Succeeded(message=message):
            usage = _tokens(message.usage)
            row = _message_row(message, line, prices.usd(message.model, usage))
            return row, "succeeded", prices.cache_saved_usd(message.model, usage)
        case _Errored(error=_ErrorBody(error=detail, request_id=request_id), spent=spent):
            used = _spent(spent, prices) if spent else (*[None] * 5, 0.0)
            row = ("errored", None, None, *used, detail.type, detail.message, request_id, line)
            return row, judge(detail.type, detail.message), 0.0
        case _Canceled():
            return ("canceled", *[None] * 7, 0.0, *[None] * 4), "canceled", 0.0
        case _Expired():
            return ("expired", *[None] * 7, 0.0, *[None] * 4), "again", 0.0


def _message_row(message: _Message, line: bytes, cost_usd: float | None) -> _Row:
    usage = message.usage
    texts = [block.text for block in message.content if block.type == "text" and block.text is not None]
    first = message.content[0] if len(message.content) == 1 else None
    plain = first is not None and first.type == "text" and not first.citations
    return (
        "succeeded",
        "".join(texts) if texts else None,
        message.stop_reason,
        message.model,
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_input_tokens,
        usage.cache_creation_input_tokens,
        cost_usd,
        None,
        None,
        None,
        None if plain else line,
    )


def searches_of(line: bytes) -> int:
    """Count the web searches that a result line has been billed for."""
    match _decode_line(line).result:
        case _Succeeded(message=_Message(usage=usage)) | _Errored(spent=_Spent(usage=usage)):
            return usage.server_tool_use.web_search_requests if usage.server_tool_use else 0
        case _:
            return 0


def _spent(spent: _Spent, prices: PriceList) -> _Row:
    usage = spent.usage
    return (
        spent.model,
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_input_tokens,
        usage.cache_creation_input_tokens,
        prices.usd(spent.model, _tokens(usage)),
    )


def _tokens(usage: _Usage) -> TokenUsage:
    hour = usage.cache_creation.ephemeral_1h_input_tokens if usage.cache_creation else 0
    return TokenUsage(
        input=usage.input_tokens,
        cache_read=usage.cache_read_input_tokens or 0,
        cache_write=(usage.cache_creation_input_tokens or 0) - hour,
        cache_write_1h=hour,
        output=usage.output_tokens,
        web_searches=usage.server_tool_use.web_search_requests if usage.server_tool_use else 0,
    )


def judge(error_type: str, message: str) -> Verdict:
    """Say whether a row that errored would fail again, may pass, or waits for its account to be mended."""
    if _NO_CREDIT.search(message) or error_type in _ACCOUNT_ERRORS:
        return "account"
    return "final" if error_type in _FINAL_ERRORS else "again"
