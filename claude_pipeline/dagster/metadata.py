"""What the asset pages say: stable keys, so that numbers plot over time."""

import re
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq

import claude_pipeline as cp
from claude_pipeline.dagster.pictures import histogram
from claude_pipeline.dagster.tally import Tally
from claude_pipeline.places import Place

JOB_ID, CHANGES = "claude/job_id", "claude/changes"
CONSOLE_URL = "https://platform.claude.com/settings/workspaces/default/batches"
COLUMNS = {
    "custom_id": "The id of the request: a hash of exactly what was sent.",
    "result_type": "succeeded, errored, canceled or expired; null if the row was not sent.",
    "response": "The text of the answer.",
    "stop_reason": "Why the answer ends: end_turn, max_tokens, refusal and so on.",
    "model": "The model that answered.",
    "input_tokens": "Tokens of the prompt that no cache took part in.",
    "output_tokens": "Tokens of the answer.",
    "cache_read_input_tokens": "Tokens of the prompt that came from the cache.",
    "cache_creation_input_tokens": "Tokens of the prompt that were written to the cache.",
    "cost_usd": "Dollars, on the row that paid; 0 on duplicates and on answers that the store already had.",
    "error_type": "What is the matter with the row, if anything.",
    "error_message": "The same in words.",
    "request_id": "The API's id of the request, for its support.",
    "batch_id": "The Message Batch that the answer came from.",
    "attempts": "How often the request was sent.",
    "content": "All blocks of the answer, as JSON.",
    "tool_name": "The tool that the answer calls.",
    "tool_input": "What it calls the tool with.",
}
_PREVIEW_ROWS, _PREVIEW_COLUMNS = 5, 2
_PREVIEW_WIDTHS = (80, 60, 40, 20, 10)
_PASSED_WIDTH = 12
_NAME_WIDTH = 20
_INLINE_CHARACTERS = 999  # longer Markdown hides behind a dialog
_MARKUP = re.compile(r"[\\`*\[\]<>|]")  # an answer must not load pictures or move cells
_ASKED = ("rows", "requests", "duplicates", "reused", "skipped", "invalid")


def submission_metadata(status: "cp.Status", store: Place) -> dict[str, Any]:
    """Describe a submission."""
    return {
        JOB_ID: status.job_id,
        "claude/model": status.model,
        **{f"claude/{name}": getattr(status, name) for name in _ASKED},
        "claude/batches": len(status.batches),
        **_batch_links(status),
        "claude/store": dg.MetadataValue.path(str(store)),
        "claude/host": socket.gethostname(),
    }


@dataclass(frozen=True, slots=True)
class Page:
    """What there is to say of answers that were written to a Parquet file.

    Attributes:
        asked_by: The columns of the input that its requests are made of.
        upstream: The asset that the input comes from, if it is one.
    """

    status: "cp.Status"
    path: Place
    file: pq.ParquetFile
    tally: Tally
    prefix: str
    asked_by: Collection[str]
    upstream: dg.AssetKey | None

    def metadata(self) -> dict[str, Any]:
        """Describe the answers."""
        status, tally = self.status, self.tally
        return {
            "dagster/uri": self.path.as_uri(),
            "dagster/row_count": tally.rows,
            "dagster/column_schema": self._column_schema(),
            **self._column_lineage(),
            "preview": dg.MetadataValue.md(self._preview()),
            **self._picture(),
            **dict(_figures(status)),
            **{f"claude/{name}": getattr(status, name) for name in _ASKED},
            "claude/unanswered": status.unanswered,
            **{f"claude/rows_{kind}": count for kind, count in tally.result_types.items()},
            **{f"claude/stop_reason_{reason}": count for reason, count in tally.stop_reasons.items()},
            "claude/input_tokens": status.input_tokens,
            "claude/output_tokens": status.output_tokens,
            "claude/cache_read_tokens": status.cache_read_tokens,
            "claude/cache_write_tokens": status.cache_write_tokens,
            "claude/batches": len(status.batches),
            **_batch_links(status),
            **_elapsed(status),
            JOB_ID: status.job_id,
            CHANGES: str(status.changes),  # no number, which the page would plot
        }

    @property
    def _first_of_ours(self) -> int:
        return int(self.file.schema_arrow.names.index(f"{self.prefix}custom_id"))

    @property
    def _typed(self) -> list[str]:
        """Name the columns of the output schema."""
        known = {self.prefix + name for name in COLUMNS}
        return [name for name in self.file.schema_arrow.names[self._first_of_ours :] if name not in known]

    def _column_schema(self) -> dg.TableSchema:
        fields = self.file.schema_arrow
        return dg.TableSchema([self._column(field, place) for place, field in enumerate(fields)])

    def _column(self, field: pa.Field, place: int) -> dg.TableColumn:
        ours = COLUMNS.get(field.name.removeprefix(self.prefix)) if place >= self._first_of_ours else None
        own = (field.metadata or {}).get(b"description", b"").decode(errors="replace")
        constraints = dg.TableColumnConstraints(nullable=field.nullable)
        return dg.TableColumn(field.name, str(field.type), own or ours, constraints)

    def _column_lineage(self) -> dict[str, Any]:
        """Say that the answer is made of the prompt's columns, and that the others are passed on."""
        if self.upstream is None:
            return {}
        asked = [dg.TableColumnDep(self.upstream, name) for name in sorted(self.asked_by)]
        passed = self.file.schema_arrow.names[: self._first_of_ours]
        lineage = {name: [dg.TableColumnDep(self.upstream, name)] for name in passed}
        lineage |= dict.fromkeys([f"{self.prefix}response", *self._typed], asked)
        return {"dagster/column_lineage": dg.TableColumnLineage(lineage)}

    def _preview(self) -> str:
        """Show the first rows as a Markdown table, in cells so narrow that the page needs no dialog for it."""
        rows = next(self.file.iter_batches(batch_size=_PREVIEW_ROWS)).to_pylist()
        passed = self.file.schema_arrow.names[: self._first_of_ours]
        answers = (self._typed or [f"{self.prefix}response"])[:_PREVIEW_COLUMNS]
        passed = passed[:1]  # the page is narrow
        tables = (
            _markdown(dict.fromkeys(answers, width) | dict.fromkeys(passed, min(width, _PASSED_WIDTH)), rows)
            for width in _PREVIEW_WIDTHS
        )
        return next((table for table in tables if len(table) <= _INLINE_CHARACTERS), "")

    def _picture(self) -> dict[str, Any]:
        picture = histogram(self.tally.output_tokens, "output tokens")
        return {"length of answers": dg.MetadataValue.md(picture)} if picture else {}


def _figures(status: "cp.Status") -> Iterator[tuple[str, float]]:
    """Yield the figures that may be unknown; those that are have no key."""
    figures = {
        "cost_usd": status.cost_usd,
        "saved_usd": status.saved.total,
        "saved_by_batches_usd": status.saved.batch_usd,
        "saved_by_caching_usd": status.saved.caching_usd,
        "saved_by_duplicates_usd": status.saved.duplicates_usd,
        "saved_by_reuse_usd": status.saved.reused_usd,
        "cache_hit_rate": status.cache_hit_rate,
    }
    for name, figure in figures.items():
        if figure is not None:
            yield f"claude/{name}", float(f"{figure:.6g}")


def _elapsed(status: "cp.Status") -> dict[str, float]:
    """Return the seconds from the submission to the end of the last batch; reused answers took none."""
    ends = [batch.ended_at for batch in status.batches if batch.ended_at]
    return {"claude/elapsed_seconds": round(max(0.0, max(ends) - status.created_at), 1)} if ends else {}


def _batch_links(status: "cp.Status") -> dict[str, Any]:
    """Link to the batches in the Console, as far as the page shows them without a dialog."""
    lines = [
        f"- [{batch.batch_id}]({CONSOLE_URL}) {batch.requests:,} requests, {batch.processing_status.replace('_', ' ')}"
        for batch in status.batches
    ]
    return {"batches": dg.MetadataValue.md("\n".join(_fitting(lines)))} if lines else {}


def _fitting(lines: Sequence[str]) -> list[str]:
    for shown in range(min(len(lines), _INLINE_CHARACTERS), 0, -1):
        more = [f"- and {len(lines) - shown:,} more"] if shown < len(lines) else []
        if len("\n".join([*lines[:shown], *more])) <= _INLINE_CHARACTERS:
            return [*lines[:shown], *more]
    return []


def _markdown(widths: Mapping[str, int], rows: list[dict[str, Any]]) -> str:
    header = [_cell(name, _NAME_WIDTH) for name in widths]
    cells = ([_cell(row[name], width) for name, width in widths.items()] for row in rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *cells])


def _cell(value: object, width: int) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)
    text = " ".join(text.split())
    return _MARKUP.sub(r"\\\g<0>", text if len(text) <= width else f"{text[: width - 1]}…")
