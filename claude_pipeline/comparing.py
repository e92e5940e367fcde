"""Two jobs side by side: which rows are answered otherwise after a change of prompt or model."""

import filecmp
import json
import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from claude_pipeline.arrays import int64_array, make_array
from claude_pipeline.choosing import Positions
from claude_pipeline.copies import local_copy
from claude_pipeline.display import Fact, columns, count, usd
from claude_pipeline.errors import InputError, MissingColumnError
from claude_pipeline.jobs import Job
from claude_pipeline.outputs import output_batches, output_schema, write_rows
from claude_pipeline.places import Place
from claude_pipeline.settings import Settings
from claude_pipeline.status import Status

if TYPE_CHECKING:
    import pandas as pd

_POSITION = "row"
_ANSWER = ("response", "output_tokens", "result_type")
_CALL = ("tool_name", "tool_input")
# Plain Python values would have Arrow import pandas.
_BLANK, _SUCCEEDED = make_array(["", "succeeded"], pa.string())


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the answers of two jobs differ.

    Attributes:
        job_a: The one job's id.
        job_b: The other's.
        matched: Rows that both jobs have.
        only_a: Rows that only the one job has.
        only_b: Rows that only the other has.
        answered: Rows that both have an answer for.
        unanswered_a: Rows that both have, where the one job alone has no answer.
        unanswered_b: Rows that both have, where the other alone has none.
        cost_a_usd: Dollars that the one job cost; None without a known price.
        cost_b_usd: Dollars that the other cost.
        output_tokens_a: Tokens of the one job's answers to the rows that both have an answer for.
        output_tokens_b: Tokens of the other's.
        rows: The rows that both answer, and differently: what they are matched by (`row`, the position from 0, or
            the columns of `on`), `response_a` and `response_b`.
    """

    job_a: str
    job_b: str
    matched: int
    only_a: int
    only_b: int
    answered: int
    unanswered_a: int
    unanswered_b: int
    cost_a_usd: float | None
    cost_b_usd: float | None
    output_tokens_a: int
    output_tokens_b: int
    rows: pa.Table

    @property
    def different(self) -> int:
        """Rows that both answer, and differently."""
        return int(self.rows.num_rows)

    @property
    def churn(self) -> float:
        """The share of the rows that both answer which they answer differently."""
        return self.different / self.answered if self.answered else 0.0

    @property
    def cost_difference_usd(self) -> float | None:
        """Dollars that the other job cost more."""
        return None if self.cost_a_usd is None or self.cost_b_usd is None else self.cost_b_usd - self.cost_a_usd

    def to_pandas(self) -> "pd.DataFrame":
        """Return the rows that are answered differently as a DataFrame."""
        frame: pd.DataFrame = self.rows.to_pandas()
        return frame

    def write(self, path: str | os.PathLike[str]) -> Place:
        """Write the rows that are answered differently as Parquet or CSV, as `Job.write` does.

        Raises:
            OutputError: The suffix is unknown, or the place cannot be written.
        """
        return write_rows(path, self.rows.schema, self.rows.to_batches())

    def to_dict(self) -> dict[str, object]:
        """Return the figures, without the rows, as what JSON can hold."""
        named = {name: getattr(self, name) for name in self.__slots__ if name != "rows"}
        derived = ("different", "churn", "cost_difference_usd")
        return named | {name: getattr(self, name) for name in derived}

    def __str__(self) -> str:
        return "\n".join(columns([(f"{label}:", text) for label, text in _facts(self)]))

    def _repr_html_(self) -> str:
        facts = "".join(
            f'<tr><th style="text-align:left;opacity:.7">{escape(label)}</th>'
            f'<td style="text-align:left">{escape(text)}</td></tr>'
            for label, text in _facts(self)
        )
        return f'<table style="border:none;font:13px/1.5 system-ui,sans-serif">{facts}</table>'


def compare(job_a: Job, job_b: Job, *, on: str | Sequence[str] | None = None) -> Comparison:
    """Compare the answers of two jobs, such as before and after a change of prompt or model.

    Rows are matched by their position when both jobs have the same input, else by the columns of `on`. An answer that
    calls a tool is compared with the call. The answers of both are held in memory.

    Args:
        job_a: The one job.
        job_b: The other, of the same store or another.
        on: A column or columns of both inputs that tell rows apart.

    Raises:
        InputError: The inputs differ and there is no `on`, or it does not tell rows apart.
    """
    names = [on] if isinstance(on, str) else list(on or ())
    side_a, side_b = _Side(job_a), _Side(job_b)
    if not names and not _have_same_input(side_a, side_b):
        raise InputError(
            f"{job_a.job_id} and {job_b.job_id} have different inputs. Pass on= with a column that both have and that "
            "tells rows apart, such as on='id'."
        )
    a, b = side_a.read(names), side_b.read(names)
    statuses = job_a.status(), job_b.status()
    if not names:
        return _put_together(statuses, a, b, only=(0, 0))
    at_a, at_b = _match(a, b, names, (job_a.job_id, job_b.job_id))
    only = a.num_rows - len(at_a), b.num_rows - len(at_b)
    return _put_together(statuses, a.take(int64_array(at_a)), b.take(int64_array(at_b)), only=only)


class _Side:
    """What is read of a job."""

    def __init__(self, job: Job) -> None:
        self._store, self._record = job._store, job.kept_record  # noqa: SLF001  not all of its columns are wanted
        self.input_path = self._store.input_path(job.job_id)

    def read(self, names: Sequence[str]) -> pa.Table:
        """Read what rows are matched by, and their answers; those without one have null."""
        schema = output_schema(self._store, self._record)
        settings = Settings.of(self._record)
        for name in names:
            if name not in schema.names:
                raise MissingColumnError(name, source=settings.label, columns=schema.names)
        ours = [*_ANSWER, *(_CALL if settings.answers.tools else ())]
        wanted = [*names, *(settings.prefix + name for name in ours)]
        batches = (batch.select(wanted) for batch in output_batches(self._store, self._record, schema))
        table = pa.Table.from_batches(batches).rename_columns([*names, *ours]).replace_schema_metadata()
        table = _with_calls(table) if settings.answers.tools else table
        return table if names else table.add_column(0, _POSITION, [int64_array(np.arange(table.num_rows))])


def _with_calls(table: pa.Table) -> pa.Table:
    """Let the response of an answer that calls a tool end with the call, as JSON."""
    said = zip(*(table[name].to_pylist() for name in ("response", *_CALL)), strict=True)
    texts = ["\n".join(filter(None, (text, _call(name, given)))) or None for text, name, given in said]
    at = table.schema.get_field_index("response")
    return table.set_column(at, "response", [make_array(texts, pa.large_string())]).drop_columns(list(_CALL))


def _call(name: str | None, given: object) -> str | None:
    if name is None:
        return None
    plain = json.loads(given) if isinstance(given, str) else given
    return json.dumps({"name": name, "input": plain}, ensure_ascii=False, default=str)


def _have_same_input(a: _Side, b: _Side) -> bool:
    return a.input_path == b.input_path or filecmp.cmp(
        local_copy(a.input_path), local_copy(b.input_path), shallow=False
    )


def _match(a: pa.Table, b: pa.Table, names: Sequence[str], labels: Sequence[str]) -> tuple[Positions, Positions]:
    """Return the places of the rows that both have."""
    for name in names:
        kinds = a[name].type, b[name].type
        if kinds[0] != kinds[1]:
            raise InputError(f"Column {name!r} is {kinds[0]} in {labels[0]}, but {kinds[1]} in {labels[1]}.")
    places_a, places_b = (_places(table, names, label) for table, label in zip((a, b), labels, strict=True))
    both = [(place, places_b[key]) for key, place in places_a.items() if key in places_b]
    pairs = np.array(both, dtype=np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _places(table: pa.Table, names: Sequence[str], label: str) -> dict[Hashable, int]:
    """Return the place of each key."""
    places: dict[Hashable, int] = {}
    for place, key in enumerate(zip(*(table[name].to_pylist() for name in names), strict=True)):
        if places.setdefault(_hashable(key, names), place) != place:
            shown = ", ".join(f"{name}={value!r}" for name, value in zip(names, key, strict=True))
            raise InputError(f"Two rows of {label} have {shown}. Pass on= with columns that tell rows apart.")
    return places


def _hashable(key: tuple[object, ...], names: Sequence[str]) -> Hashable:
    try:
        hash(key)
    except TypeError:
        raise InputError(f"{' and '.join(names)} cannot tell rows apart: pass on= with text or numbers.") from None
    return key


def _put_together(statuses: tuple[Status, Status], a: pa.Table, b: pa.Table, *, only: tuple[int, int]) -> Comparison:
    """Count and gather, the rows of both tables in the same order."""
    has_a, has_b = _is_answered(a), _is_answered(b)
    both = pc.and_(has_a, has_b)
    is_different = pc.and_(both, pc.not_equal(_text(a), _text(b)))
    keys = [name for name in a.column_names if name not in _ANSWER]
    rows = a.select([*keys, "response"]).add_column(len(keys) + 1, "response_b", b["response"])
    status_a, status_b = statuses
    return Comparison(
        job_a=status_a.job_id,
        job_b=status_b.job_id,
        matched=a.num_rows,
        only_a=only[0],
        only_b=only[1],
        answered=_count(both),
        unanswered_a=_count(has_b) - _count(both),
        unanswered_b=_count(has_a) - _count(both),
        cost_a_usd=status_a.cost_usd,
        cost_b_usd=status_b.cost_usd,
        output_tokens_a=_sum(a.filter(both)),
        output_tokens_b=_sum(b.filter(both)),
        rows=rows.rename_columns([*keys, "response_a", "response_b"]).filter(is_different),
    )


def _is_answered(table: pa.Table) -> pa.ChunkedArray:
    return pc.equal(pc.coalesce(table["result_type"], _BLANK), _SUCCEEDED)


def _text(table: pa.Table) -> pa.ChunkedArray:
    return pc.coalesce(table["response"], _BLANK)


def _count(flags: pa.ChunkedArray) -> int:
    return int(pc.sum(flags).as_py() or 0)


def _sum(answered: pa.Table) -> int:
    return int(pc.sum(answered["output_tokens"]).as_py() or 0)


def _facts(comparison: Comparison) -> list[Fact]:
    every = [
        ("Rows", _joined(count(comparison.matched), _row_parts(comparison))),
        ("Different", f"{count(comparison.different)} of {count(comparison.answered)} ({comparison.churn:.1%})"),
        ("Cost", _change(usd(comparison.cost_a_usd), usd(comparison.cost_b_usd)) + _more(comparison)),
        ("Tokens out", _change(count(comparison.output_tokens_a), count(comparison.output_tokens_b))),
    ]
    return [("Jobs", _change(comparison.job_a, comparison.job_b)), *every]


def _row_parts(comparison: Comparison) -> list[str]:
    a, b = comparison.job_a, comparison.job_b
    parts = [
        (comparison.unanswered_a, f"answered by {b} alone"),
        (comparison.unanswered_b, f"answered by {a} alone"),
        (comparison.only_a, f"more in {a} alone"),
        (comparison.only_b, f"more in {b} alone"),
    ]
    return [f"{count(number)} {what}" for number, what in parts if number]


def _joined(head: str, parts: Sequence[str]) -> str:
    return f"{head}: {', '.join(parts)}" if parts else head


def _change(before: str, after: str) -> str:
    return f"{before or '?'} → {after or '?'}"


def _more(comparison: Comparison) -> str:
    difference = comparison.cost_difference_usd
    if not difference:
        return ""
    return f" ({usd(abs(difference))} {'more' if difference > 0 else 'less'})"
