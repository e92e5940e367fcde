"""From result lines to Arrow: what each says, and what it cost.

Pure but for the spool file that the lines lie in.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from claude_pipeline.arrays import float64_array, make_array, to_int64
from claude_pipeline.lines import ErrorBody, ErrorDetail, Errored, Result, Verdict, decode_line, verdict_on
from claude_pipeline.pricing import PriceList, TokenUsage
from claude_pipeline.spooling import Spool
from claude_pipeline.status import total_usd

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
# How results are stored: no two answers are alike, and nothing is looked for by what statistics tell.
_REPEATED = [f.name for f in RESULT_FIELDS if f.name not in {"response", "cost_usd", "error_message", "request_id"}]
WRITING: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 1,
    "use_dictionary": _REPEATED,
    "write_statistics": False,
}
DECODE_BYTES = 4_000_000
MISSING_MESSAGE = "Its line is missing from the results of {batch_ids}, where it may have been billed."


@dataclass(frozen=True, slots=True)
class Decoded:
    """A run of results in the shard's order, and the verdict on each.

    Attributes:
        cache_saved_usd: What the prompt cache saved on all of them; None without a known price.
    """

    batch: pa.RecordBatch
    verdicts: list[Verdict]
    cache_saved_usd: float | None


def decode(file: BinaryIO, spool: Spool, prices: PriceList, *, batch_id: str = "") -> Iterator[Decoded]:
    """Decode spooled lines in the shard's order, at most about 4 MB of them at a time; a missing one is errored.

    Raises:
        ResultsError: A line is not a result.
    """
    for start, stop in _runs(spool.lengths):
        yield decode_lines(spool.read(file, start, stop), prices, batch_id=batch_id)


def _runs(lengths: npt.NDArray[np.int32]) -> Iterator[tuple[int, int]]:
    runs = np.cumsum(lengths, dtype=np.int64) // DECODE_BYTES
    edges = [0, *(np.flatnonzero(np.diff(runs)) + 1).tolist(), len(lengths)]
    yield from ((start, stop) for start, stop in pairwise(edges) if start < stop)


def decode_lines(lines: Sequence[bytes], prices: PriceList, *, batch_id: str = "") -> Decoded:
    """Decode result lines; an empty one is missing, and errored.

    Raises:
        ResultsError: A line is not a result.
    """
    missing = Errored(ErrorBody(ErrorDetail("missing", MISSING_MESSAGE.format(batch_ids=batch_id))))
    results = [decode_line(line) if line else missing for line in lines]
    verdicts: list[Verdict] = [
        "succeeded" if result.message else "missing" if result is missing else verdict_on(result) for result in results
    ]
    tokens_and_costs, saved = _tokens_and_costs(results, prices)
    plain = [result.message is not None and result.message.is_plain for result in results]
    columns = [*_words(results, plain), *tokens_and_costs, *_errors(results), _kept(results, lines, plain)]
    return Decoded(pa.record_batch(columns, schema=RESULT_SCHEMA), verdicts, saved)


def _words(results: Sequence[Result], plain: Sequence[bool]) -> list[pa.Array]:
    messages = [result.message for result in results]
    paid = [result.message or result.spent for result in results]
    texts = [
        message and (message.content[0].text if is_plain else message.text)
        for message, is_plain in zip(messages, plain, strict=True)
    ]
    return [
        make_array([result.kind for result in results], pa.string()),
        make_array(texts, pa.large_string()),
        make_array([message and message.stop_reason for message in messages], pa.string()),
        make_array([some and some.model for some in paid], pa.string()),
    ]


def _errors(results: Sequence[Result]) -> list[pa.Array]:
    bodies = [result.error for result in results]
    words = (
        [body and body.error.type for body in bodies],
        [body and body.error.message for body in bodies],
        [body and body.request_id for body in bodies],
    )
    return [make_array(some, pa.string()) for some in words]


def _kept(results: Sequence[Result], lines: Sequence[bytes], plain: Sequence[bool]) -> pa.Array:
    """Keep the lines that say more than the other columns."""
    cells = [
        line if line and not is_plain and (result.message or result.error) else None
        for result, line, is_plain in zip(results, lines, plain, strict=True)
    ]
    return make_array(cells, pa.large_binary())


def _tokens_and_costs(results: Sequence[Result], prices: PriceList) -> tuple[list[pa.Array], float | None]:
    """Return the columns of tokens and of dollars, and what the cache saved on all of them."""
    paid = [result.message or result.spent for result in results]
    usages = [some and some.usage for some in paid]
    counts = (
        [usage and usage.input_tokens for usage in usages],
        [usage and usage.output_tokens for usage in usages],
        [usage and usage.cache_read_input_tokens for usage in usages],
        [usage and usage.cache_creation_input_tokens for usage in usages],
        [usage and usage.cache_creation and usage.cache_creation.ephemeral_1h_input_tokens for usage in usages],
        [usage and usage.server_tool_use and usage.server_tool_use.web_search_requests for usage in usages],
    )
    columns = [make_array(some, pa.int64()) for some in counts]
    fresh, answers, read, written, hour, searches = (to_int64(column) for column in columns)
    costs, saved = np.zeros(len(paid)), list[float | None]()
    models = [some.model if some else "" for some in paid]
    for model in {*models} - {""}:
        mine = np.array([one == model for one in models])
        each = (some[mine] for some in (fresh, read, written - hour, hour, answers, searches))
        costs[mine], saved_usd = prices.usd_each(model, TokenUsage(*each))
        saved.append(saved_usd)
    return [*columns[:4], float64_array(costs)], total_usd(saved)
