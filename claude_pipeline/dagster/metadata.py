"""What the asset pages say: stable keys, so that numbers plot over time."""

import re
import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq

import claude_pipeline as cp

JOB_ID, CHANGES = "claude/job_id", "claude/changes"
_PREVIEW_ROWS, _PREVIEW_COLUMNS = 5, 3
_PREVIEW_WIDTHS = (60, 40, 30, 20, 10)
_NAME_WIDTH = 30
_INLINE_CHARACTERS = 999  # longer Markdown hides behind a dialog
_MARKUP = re.compile(r"[\\`*\[\]<>|]")  # an answer must not load pictures or move cells
_ASKED = ("rows", "requests", "duplicates", "reused", "skipped", "invalid")


def submission_metadata(status: "cp.Status", store: Path) -> dict[str, Any]:
    """Describe a submission."""
    return {
        JOB_ID: status.job_id,
        "claude/model": status.model,
        **{f"claude/{name}": getattr(status, name) for name in _ASKED},
        "claude/batches": len(status.batches),
        "claude/store": dg.MetadataValue.path(str(store)),
        "claude/host": socket.gethostname(),
    }


def answers_metadata(status: "cp.Status", path: Path, file: pq.ParquetFile, prefix: str) -> dict[str, Any]:
    """Describe answers that were written to a Parquet file."""
    return {
        "dagster/uri": path.as_uri(),
        "dagster/row_count": file.metadata.num_rows,
        "dagster/column_schema": _column_schema(file),
        "preview": dg.MetadataValue.md(_preview(file, prefix)),
        JOB_ID: status.job_id,
        CHANGES: status.changes,
        **{f"claude/{name}": getattr(status, name) for name in _ASKED},
        "claude/unanswered": status.unanswered,
        **{f"claude/rows_{kind}": count for kind, count in _rows_by_result_type(file, prefix).items()},
        "claude/batches": len(status.batches),
        "claude/input_tokens": status.input_tokens,
        "claude/output_tokens": status.output_tokens,
        "claude/cache_read_tokens": status.cache_read_tokens,
        "claude/cache_write_tokens": status.cache_write_tokens,
        **dict(_figures(status)),
    }


def _figures(status: "cp.Status") -> Iterator[tuple[str, float]]:
    """Yield the figures that may be unknown; those that are have no key."""
    figures = {
        "cache_hit_rate": status.cache_hit_rate,
        "cost_usd": status.cost_usd,
        "saved_usd": status.saved.total,
        "saved_by_batches_usd": status.saved.batch_usd,
        "saved_by_caching_usd": status.saved.caching_usd,
        "saved_by_duplicates_usd": status.saved.duplicates_usd,
        "saved_by_reuse_usd": status.saved.reused_usd,
    }
    for name, figure in figures.items():
        if figure is not None:
            yield f"claude/{name}", float(f"{figure:.6g}")


def _column_schema(file: pq.ParquetFile) -> dg.TableSchema:
    columns = [
        dg.TableColumn(field.name, str(field.type), constraints=dg.TableColumnConstraints(nullable=field.nullable))
        for field in file.schema_arrow
    ]
    return dg.TableSchema(columns)


def _rows_by_result_type(file: pq.ParquetFile, prefix: str) -> Mapping[str, int]:
    column = f"{prefix}result_type"
    counts = Counter(dict.fromkeys(("succeeded", "errored", "canceled", "expired", "not_sent"), 0))
    for batch in file.iter_batches(columns=[column]):
        counts.update(kind or "not_sent" for kind in batch.column(0).to_pylist())
    return counts


def _preview(file: pq.ParquetFile, prefix: str) -> str:
    """Show the first rows as a Markdown table, in cells so narrow that the page needs no dialog for it."""
    rows = next(file.iter_batches(batch_size=_PREVIEW_ROWS)).to_pylist()
    names = file.schema_arrow.names
    ours = names.index(f"{prefix}custom_id")
    shown = [f"{prefix}response", *names[:ours][:_PREVIEW_COLUMNS]]  # the page cuts off what stands too far right
    tables = (_markdown(shown, rows, width) for width in _PREVIEW_WIDTHS)
    return next((table for table in tables if len(table) <= _INLINE_CHARACTERS), "")


def _markdown(names: list[str], rows: list[dict[str, Any]], width: int) -> str:
    header = [_cell(name, _NAME_WIDTH) for name in names]
    lines = [header, ["---"] * len(names), *([_cell(row[name], width) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object, width: int) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)
    text = " ".join(text.split())
    return _MARKUP.sub(r"\\\g<0>", text if len(text) <= width else f"{text[: width - 1]}…")
