"""The checks of an answers asset: what it should come to, and the first rows that did not."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import dagster as dg
import pyarrow.parquet as pq
from pydantic import Field

import claude_pipeline as cp
from claude_pipeline.dagster.tally import Tally, Trouble, rows_at

CheckName = Literal["succeeded", "truncated", "refused", "schema_valid", "cost_within_budget"]

_EVERY_ROW_ONCE = "every_row_once"
_CELL = 200
_DESCRIPTIONS: Mapping[CheckName, str] = {
    "succeeded": "Enough of the rows that have a prompt are answered.",
    "truncated": "Few enough answers are cut off at max_tokens.",
    "refused": "Few enough answers are refusals.",
    "schema_valid": "Enough answers fit the output schema.",
    "cost_within_budget": "The answers cost no more than they should.",
}


class Checks(dg.Model):
    """What the answers of an asset should come to; shares are from 0 to 1.

    A check that fails is a warning, unless it is named in `errors`: then it holds up what is downstream.
    """

    min_succeeded: float = Field(
        default=1.0, ge=0, le=1, description="The share of rows with a prompt that have an answer.", examples=[0.98]
    )
    max_truncated: float = Field(
        default=0.0, ge=0, le=1, description="The share of answers that may be cut off at max_tokens.", examples=[0.02]
    )
    max_refused: float = Field(
        default=0.0, ge=0, le=1, description="The share of answers that may be refusals.", examples=[0.01]
    )
    min_valid: float = Field(
        default=1.0, ge=0, le=1, description="The share of answers that fit the output schema.", examples=[0.99]
    )
    max_cost_usd: float | None = Field(
        default=None, gt=0, description="Dollars that the answers should not cost more than.", examples=[25.0]
    )
    errors: list[CheckName] = Field(
        default=[],
        description="The checks that are errors and hold up what is downstream, instead of warnings.",
        examples=[["succeeded", "schema_valid"]],
    )


class _Rule(NamedTuple):
    """A limit to the share of rows that are in some trouble, or to the share of those that are not.

    Attributes:
        limit: Which field of `Checks` it is.
        columns: What tells of a row in trouble.
    """

    trouble: Trouble
    limit: str
    words: str
    columns: Sequence[str]

    @property
    def is_least(self) -> bool:
        """Whether the limit is the least share of rows without the trouble."""
        return self.limit.startswith("min_")


_RULES: Mapping[CheckName, _Rule] = {
    "succeeded": _Rule(
        *("unanswered", "min_succeeded", "rows with a prompt are answered"),
        ("result_type", "error_type", "error_message"),
    ),
    "truncated": _Rule(
        *("truncated", "max_truncated", "answers are cut off at max_tokens"),
        ("stop_reason", "output_tokens", "response"),
    ),
    "refused": _Rule("refused", "max_refused", "answers are refusals", ("stop_reason", "response")),
    "schema_valid": _Rule("invalid", "min_valid", "answers fit the output schema", ("error_message", "response")),
}


@dataclass(frozen=True, slots=True)
class Checker:
    """Declares the checks of an asset, and evaluates them."""

    key: dg.AssetKey
    limits: Checks
    has_schema: bool
    prefix: str
    id_column: str | None

    @classmethod
    def of(cls, key: dg.AssetKey, limits: Checks, request: Mapping[str, Any]) -> "Checker":
        """Make the checker of an asset whose rows are asked so."""
        has_schema = request.get("output_schema") is not None
        return cls(key, limits, has_schema, request.get("prefix", ""), request.get("id_column"))

    def specs(self) -> list[dg.AssetCheckSpec]:
        """Declare the checks."""
        description = "Every row of the input is in the table once: asked, or with the reason why not."
        every = dg.AssetCheckSpec(_EVERY_ROW_ONCE, asset=self.key, blocking=True, description=description)
        return [every, *map(self._spec, self._names())]

    def _names(self) -> list[CheckName]:
        without = {"schema_valid": not self.has_schema, "cost_within_budget": self.limits.max_cost_usd is None}
        return [name for name in _DESCRIPTIONS if not without.get(name)]

    def _spec(self, name: CheckName) -> dg.AssetCheckSpec:
        is_blocking = name in self.limits.errors
        return dg.AssetCheckSpec(name, asset=self.key, blocking=is_blocking, description=_DESCRIPTIONS[name])

    def evaluate(self, status: "cp.Status", file: pq.ParquetFile, tally: Tally) -> Iterator[dg.AssetCheckResult]:
        """Check answers that were written to a file."""
        yield dg.AssetCheckResult(
            asset_key=self.key,
            check_name=_EVERY_ROW_ONCE,
            passed=tally.rows == status.rows,
            description=f"{tally.rows:,} rows are written of {status.rows:,} in the input.",
            metadata={"rows": tally.rows, "input rows": status.rows},
        )
        for name in self._names():
            yield self._cost(status.cost_usd) if name == "cost_within_budget" else self._share(name, file, tally)

    def _share(self, name: CheckName, file: pq.ParquetFile, tally: Tally) -> dg.AssetCheckResult:
        rule = _RULES[name]
        of = tally.asked if rule.trouble == "unanswered" else tally.answered
        troubled = tally.troubles[rule.trouble]
        counted = of - troubled if rule.is_least else troubled
        share = counted / of if of else float(rule.is_least)
        limit = getattr(self.limits, rule.limit)
        metadata: dict[str, Any] = {"rows": counted, "of": of, "share": share, "limit": limit}
        if troubled:
            metadata["first rows"] = self._first_rows(rule, file, tally.first[rule.trouble])
        passed = share >= limit if rule.is_least else share <= limit
        return self._result(name, passed=passed, words=f"{counted:,} of {of:,} {rule.words}.", metadata=metadata)

    def _first_rows(self, rule: _Rule, file: pq.ParquetFile, numbers: Sequence[int]) -> dg.TableMetadataValue:
        named = [self.id_column] if self.id_column else []
        columns = [*named, *(self.prefix + name for name in rule.columns)]
        rows = zip(numbers, rows_at(file, numbers, columns), strict=True)
        return dg.MetadataValue.table(
            [dg.TableRecord({"row": number} | {name: _cell(row[name]) for name in columns}) for number, row in rows]
        )

    def _cost(self, cost_usd: float | None) -> dg.AssetCheckResult:
        most = self.limits.max_cost_usd or 0.0
        if cost_usd is None:
            words = "The cost is unknown: a model has no known price."
            return self._result("cost_within_budget", passed=False, words=words, metadata={"budget_usd": most})
        words = f"The answers cost ${cost_usd:.4g} of ${most:.4g}."
        metadata = {"cost_usd": cost_usd, "budget_usd": most}
        return self._result("cost_within_budget", passed=cost_usd <= most, words=words, metadata=metadata)

    def _result(self, name: CheckName, *, passed: bool, words: str, metadata: Mapping[str, Any]) -> dg.AssetCheckResult:
        is_error = name in self.limits.errors
        return dg.AssetCheckResult(
            asset_key=self.key,
            check_name=name,
            passed=passed,
            severity=dg.AssetCheckSeverity.ERROR if is_error else dg.AssetCheckSeverity.WARN,
            description=words,
            metadata=metadata,
        )


def _cell(value: object) -> str | int | float | bool | None:
    if value is None or isinstance(value, int | float | bool):
        return value
    text = str(value)
    return text if len(text) <= _CELL else f"{text[: _CELL - 1]}…"
