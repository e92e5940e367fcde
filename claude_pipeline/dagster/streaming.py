"""Streaming for assets: the rows of a small table answered within the run, each logged as it comes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg
import numpy as np

import claude_pipeline as cp
from claude_pipeline.dagster.pictures import histogram
from claude_pipeline.dagster.resource import ClaudeResource

MAX_ROWS = 200
_LOGGED = 120


@dataclass(frozen=True, slots=True)
class Streamed:
    """Rows that were streamed.

    Attributes:
        firsts: Seconds to the first token of each row that was asked now.
        speeds: Tokens a second of each.
    """

    job: "cp.Job"
    firsts: list[float]
    speeds: list[float]

    def metadata(self) -> dict[str, Any]:
        """Describe how fast the answers came; those that the store already had took no time."""
        if not self.firsts:
            return {"claude/streamed": 0}
        milliseconds = np.array([1e3 * seconds for seconds in self.firsts], dtype=np.int64)
        picture = histogram(milliseconds, "ms to the first token")
        return {
            "claude/streamed": len(self.firsts),
            "claude/seconds_to_first_token_p50": _percentile(self.firsts, 50),
            "claude/seconds_to_first_token_p95": _percentile(self.firsts, 95),
            "claude/tokens_per_second": _percentile(self.speeds, 50),
            **({"first token": dg.MetadataValue.md(picture)} if picture else {}),
        }


def _percentile(values: list[float], share: int) -> float:
    return float(f"{np.percentile(values, share):.4g}")


def stream_rows(
    context: dg.AssetExecutionContext,
    claude: ClaudeResource,
    table: Any,  # noqa: ANN401  what stream takes
    *,
    name: str,
    request: Mapping[str, Any],
) -> Streamed:
    """Stream a table's rows into the store, and log each.

    Raises:
        TooManyRowsError: There are more; nothing was asked.
        PipelineError: It cannot be streamed; what is complete is kept.
    """
    known: dict[str, Any] = {key: request[key] for key in request.keys() & cp.StreamOptions.__optional_keys__}
    firsts: list[float] = []
    speeds: list[float] = []
    with (
        claude.client() as client,
        cp.stream(
            table, name=name, store=claude.store_path(), ledger=claude.ledger_url, client=client, **known
        ) as rows,
    ):
        for row in rows:
            context.log.info(_line(row))
            if row.seconds_to_first_token is not None:
                firsts.append(row.seconds_to_first_token)
                speeds.append(row.tokens_per_second or 0.0)
    return Streamed(rows.job, firsts, speeds)


def _line(row: "cp.StreamedRow") -> str:
    """Say in one line what became of a row."""
    if row.is_in_progress:
        return f"Row {row.row + 1:,} is being answered in {row.batch_id or 'another run'}."
    if row.result_type != "succeeded":
        return f"Row {row.row + 1:,}: {row.error_type}: {row.error_message}"
    text = " ".join((row.response or "").split())
    cut = text if len(text) <= _LOGGED else f"{text[: _LOGGED - 1]}…"
    took = f" ({row.seconds_to_first_token:.2f} s to the first token)" if row.seconds_to_first_token else ""
    return f"Row {row.row + 1:,}{took}: {cut}"
