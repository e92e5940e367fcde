"""Asking again what was cut off or does not fit: which rows these are, and what takes the place of their requests.

What a row is asked follows from what it was answered, so that whoever plans an asking anew finds the same requests.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from claude_pipeline.arrays import int64_array
from claude_pipeline.derived import AnswerOptions, Derived
from claude_pipeline.errors import InputError
from claude_pipeline.joining import join_asking
from claude_pipeline.prompts import Request, RequestForm, RowsAsked
from claude_pipeline.records import JobRecord
from claude_pipeline.shards import Rows
from claude_pipeline.store import Store
from claude_pipeline.walking import ANSWER_SCHEMA, LINE_SCHEMA

Retry = Literal["retry"]


class Retries(msgspec.Struct, frozen=True):
    """Which answers are not left as they are: those that do not fit, those that were cut off."""

    invalid: bool = False
    truncated: bool = False

    def __bool__(self) -> bool:
        return self.invalid or self.truncated


NO_RETRIES: Final = Retries()


def read_retries(*, on_invalid: Retry | None, on_truncated: Retry | None, answers: AnswerOptions) -> Retries:
    """Read what is to be asked again.

    Raises:
        InputError: An option is something else, or there is nothing that an answer has to fit.
    """
    for name, given in (("on_invalid", on_invalid), ("on_truncated", on_truncated)):
        if given not in (None, "retry"):
            raise InputError(f"{name} is {given!r}. Write {name}='retry' to ask such rows again, or leave it out.")
    if on_invalid and not (answers.output_schema or answers.tool_schema):
        raise InputError(
            "on_invalid='retry' has nothing that an answer must fit. Pass output_schema=, or in params one tool whose "
            "input_schema can become columns, or leave on_invalid= out."
        )
    return Retries(invalid=on_invalid is not None, truncated=on_truncated is not None)


def forms_of(form: RequestForm, asking: int) -> list[RequestForm]:
    """Return the forms that requests of an asking may have, by how often the limit is doubled."""
    return [form.again(doubled=doubled, afresh=asking - doubled) for doubled in range(asking + 1)]


@dataclass(frozen=True, slots=True)
class Retrying:
    """How a job asks again.

    Attributes:
        columns: Those of the input that are to be seen.
    """

    form: RequestForm
    answers: AnswerOptions
    retries: Retries
    columns: set[str]

    def batches(self, store: Store, job: JobRecord) -> Iterator[tuple[int, pa.RecordBatch, Iterator[RowsAsked]]]:
        """Yield the input in batches, each with the number of its first row and what rows of it are asked again."""
        derived = Derived(self.answers)
        schema = LINE_SCHEMA if self.retries.invalid and derived.needs_lines else ANSWER_SCHEMA
        for first, batch, answers in join_asking(store, job, job.asking - 1, self.columns, schema=schema):
            why = self._why(derived, answers)
            places = np.flatnonzero(why != "")
            chosen = int64_array(places)
            addresses = map(bytes.fromhex, answers.column("custom_id").take(chosen).to_pylist())
            asked = _Asked(self.form, job.asking - 1, batch.take(chosen), list(addresses))
            yield first, batch, asked.again(first + places, why[places].tolist())

    def _why(self, derived: Derived, answers: pa.RecordBatch) -> npt.NDArray[np.str_]:
        """Say why each row is asked again; empty if it is not."""
        why = np.full(answers.num_rows, "", dtype="U9")
        if self.retries.invalid:
            why[np.array([error is not None for error in derived.derive(answers).errors], dtype=bool)] = "invalid"
        if self.retries.truncated:
            reasons = answers.column("stop_reason").to_pylist()
            why[np.array([reason == "max_tokens" for reason in reasons], dtype=bool)] = "truncated"
        return why


@dataclass(frozen=True, slots=True)
class _Asked:
    """Rows of an asking, and the addresses of what they were asked."""

    form: RequestForm
    asking: int
    rows: pa.RecordBatch
    addresses: Sequence[bytes]

    def again(self, rows: Rows, why: Sequence[str]) -> Iterator[RowsAsked]:
        """Yield what rows are asked now, by their numbers, as far as what they were asked can still be made."""
        forms = forms_of(self.form, self.asking + 1)
        doubled = [
            None if times is None else times + (reason == "truncated")
            for times, reason in zip(self._doubled(), why, strict=True)
        ]
        start = 0
        for times, run in groupby(doubled):
            stop = start + sum(1 for _ in run)
            if times is not None:
                asked = forms[times].ask(self.rows.slice(start, stop - start), rows[start:stop])
                yield from (requests.sendable(those) for those, requests in asked)
            start = stop

    def _doubled(self) -> list[int | None]:
        """Say how often the limit was doubled in what each row was asked."""
        found: list[int | None] = [None] * self.rows.num_rows
        for times, form in enumerate(forms_of(self.form, self.asking)):
            for place, request in enumerate(form.render(self.rows)):
                if isinstance(request, Request) and request.address == self.addresses[place]:
                    found[place] = times
        return found
