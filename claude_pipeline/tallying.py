"""A job's answers as figures: what they came to, how long they are, what they cost.

Neither prompts nor answers are read. Memory is flat: counts, and of each kind of error a few examples.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from claude_pipeline.joining import join
from claude_pipeline.records import JobRecord
from claude_pipeline.store import Store
from claude_pipeline.walking import ANSWER_SCHEMA

_NOT_READ = ("response", "input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "request_id")
_SCHEMA = pa.schema([field for field in ANSWER_SCHEMA if field.name not in _NOT_READ])
_EXAMPLES, _EXAMPLE_LENGTH = 3, 300


@dataclass(slots=True)
class Tally:
    """What the rows of a job came to.

    Attributes:
        results: Rows by `result_type`; None stands for those without a result.
        stop_reasons: Answers by `stop_reason`.
        lengths: How many answers have 0, 1, 2, … output tokens.
        costs: Dollars by model; a price that is not known counts as nothing.
        errors: Rows by `error_type`.
        examples: A few messages of each, cut to 300 characters.
    """

    results: Counter[str | None] = field(default_factory=Counter)
    stop_reasons: Counter[str] = field(default_factory=Counter)
    lengths: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    costs: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, answers: pa.RecordBatch) -> None:
        """Count the answers of a batch of rows."""
        cells = dict(zip(answers.schema.names, (column.to_pylist() for column in answers.columns), strict=True))
        self.results.update(cells["result_type"])
        self.stop_reasons.update(reason for reason in cells["stop_reason"] if reason)
        self._measure([tokens for tokens in cells["output_tokens"] if tokens is not None])
        for model, cost in zip(cells["model"], cells["cost_usd"], strict=True):
            if model:
                self.costs[model] += cost or 0.0  # type: ignore[assignment]  # a Counter adds dollars as well
        for kind, message in zip(cells["error_type"], cells["error_message"], strict=True):
            if kind and kind != "missing_prompt":  # a blank prompt is no error
                self._blame(kind, message or "")

    def _measure(self, tokens: Sequence[int]) -> None:
        counts = np.bincount(np.array(tokens, dtype=np.int64), minlength=len(self.lengths))
        counts[: len(self.lengths)] += self.lengths
        self.lengths = counts

    def _blame(self, kind: str, message: str) -> None:
        self.errors[kind] += 1
        examples = self.examples.setdefault(kind, [])
        example = message if len(message) <= _EXAMPLE_LENGTH else f"{message[:_EXAMPLE_LENGTH]}…"
        if len(examples) < _EXAMPLES and example and example not in examples:
            examples.append(example)


def tally(store: Store, job: JobRecord) -> Tally:
    """Count what the rows of a job came to, as far as it is known by now."""
    counted = Tally()
    for _, answers in join(store, job, schema=_SCHEMA, columns=[]):
        counted.add(answers)
    return counted
