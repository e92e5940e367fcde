"""What a table would cost: the figures, as text and as HTML."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import msgspec

from claude_pipeline.cards import fact, framed
from claude_pipeline.display import Fact, columns, count, plural, size, usd

_HEADER = ("", "EXPECTED", "LOW", "HIGH", "WORST CASE")

# A notebook's own tables are striped in its theme's colours; this one takes what is around it.
_TABLE = "margin:8px 0;border:none;border-collapse:collapse;font:inherit;color:inherit"
_CELL = "padding:0 0 0 2em;border:none;text-align:right;background:none"
_LABEL = "padding:0;border:none;text-align:left;font-weight:normal;opacity:.7;background:none"


@dataclass(frozen=True, slots=True)
class Range:
    """A figure that is not known yet.

    Attributes:
        low: It is above this, at about 95 %.
        high: It is below this, at about 95 %.
        worst: What it comes to if every answer is as long as `max_tokens` allows, and no cache helps.
    """

    expected: float
    low: float
    high: float
    worst: float

    def __add__(self, other: "Range") -> "Range":
        return Range(
            self.expected + other.expected, self.low + other.low, self.high + other.high, self.worst + other.worst
        )


@dataclass(frozen=True, slots=True)
class ModelEstimate:
    """The share of one model; see `Estimate`."""

    model: str
    requests: int
    input_tokens: Range
    output_tokens: Range
    batch_usd: Range | None
    live_usd: Range | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a table would cost, before anything is sent.

    Attributes:
        label: What messages call the table.
        rows: Rows of the table, or as many as `limit` leaves.
        skipped: Rows with a blank prompt: never sent.
        invalid: Rows that cannot be sent.
        requests: Distinct requests.
        answered: Those of them that the store has answers for, or is asking already: free.
        to_send: Those that are left. What follows is about them.
        batches: Message Batches that they make.
        waves: How often the queue fills up, if all batches in it have to end before the next ones go.
        body_bytes: Bytes of all batches.
        counted: Requests whose tokens the API counted, for nothing.
        input_tokens: Tokens of the prompts, whether a cache takes part in them or not.
        input_margin: By what share `input_tokens` may be wrong, at about 95 %; 0 when all requests were counted.
        cached_tokens: Tokens of each prompt that are to be cached, on average; they are among `input_tokens`.
        output_tokens: Tokens of the answers.
        learned_from: Answers of the store from which the length of answers was learned.
        batch_usd: Dollars as Message Batches; None when a model's price is unknown.
        live_usd: Dollars if each request were sent by itself; None when a model's price is unknown.
        models: The shares of the models, in the order of the table.
        unpriced: Models without a known price.
        notes: What these figures rest upon, in sentences.
    """

    label: str
    rows: int
    skipped: int
    invalid: int
    requests: int
    answered: int
    to_send: int
    batches: int
    waves: int
    body_bytes: int
    counted: int
    input_tokens: Range
    input_margin: float
    cached_tokens: int
    output_tokens: Range
    learned_from: int
    batch_usd: Range | None
    live_usd: Range | None
    models: tuple[ModelEstimate, ...]
    unpriced: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def duplicates(self) -> int:
        """Rows that share the request of an earlier row."""
        return self.rows - self.skipped - self.invalid - self.requests

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as what JSON can hold."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain

    def __str__(self) -> str:
        said = columns([(f"{label}:", text) for label, text in _facts(self)])
        figures = ["", *_aligned([_HEADER, *_figures(self)])] if self.to_send else []
        return "\n".join([*said, *figures, *(["", *self.notes] if self.notes else [])])

    def _repr_html_(self) -> str:
        facts = "".join(fact(label, escape(text)) for label, text in _facts(self))
        figures = "".join(_html_row(row) for row in [_HEADER, *_figures(self)]) if self.to_send else ""
        table = f'<table style="{_TABLE}">{figures}</table>' if figures else ""
        notes = "".join(f'<div style="opacity:.7">{escape(note)}</div>' for note in self.notes)
        return framed(f"{facts}{table}{notes}")


def _facts(estimate: Estimate) -> list[Fact]:
    known = [
        ("Rows", _with(count(estimate.rows), _row_parts(estimate))),
        ("Requests", _with(count(estimate.requests), _request_parts(estimate))),
    ]
    if not estimate.to_send:
        return [*known, ("Cost", "nothing, for there is nothing to send")]
    batches = f"{count(estimate.batches)} in {plural(estimate.waves, 'wave')}, {size(estimate.body_bytes)}"
    return [*known, ("Batches", batches), ("Tokens in", _tokens_in(estimate))]


def _with(head: str, parts: Iterator[tuple[int, str]]) -> str:
    said = ", ".join(f"{count(number)} {what}" for number, what in parts if number)
    return f"{head}: {said}" if said else head


def _row_parts(estimate: Estimate) -> Iterator[tuple[int, str]]:
    yield estimate.skipped, "skipped (blank prompt)"
    yield estimate.invalid, "cannot be sent"
    yield estimate.duplicates, "ask the same as an earlier row"


def _request_parts(estimate: Estimate) -> Iterator[tuple[int, str]]:
    yield estimate.answered, "answered or asked already, free"
    yield estimate.to_send if estimate.answered else 0, "to send"


def _tokens_in(estimate: Estimate) -> str:
    said = f"{count(round(estimate.input_tokens.expected))} ± {_share(estimate.input_margin)}"
    how = f"{plural(estimate.counted, 'request')} counted by the API" if estimate.counted else "guessed from sizes"
    cached = f"; {count(estimate.cached_tokens)} of each prompt to be cached" if estimate.cached_tokens else ""
    return f"{said} ({how}{cached})"


def _share(share: float) -> str:
    return f"{100 * share:.2g}%" if share < 1 else f"{100 * share:.0f}%"


def _figures(estimate: Estimate) -> Iterator[Sequence[str]]:
    yield "Tokens out", *(count(round(number)) for number in _numbers(estimate.output_tokens))
    yield "Batch", *_dollars(estimate.batch_usd)
    yield "Live", *_dollars(estimate.live_usd)
    for share in estimate.models if len(estimate.models) > 1 else ():
        yield f"{share.model} ({count(share.requests)}), batch", *_dollars(share.batch_usd)
        yield f"{share.model} ({count(share.requests)}), live", *_dollars(share.live_usd)


def _numbers(figure: Range) -> tuple[float, ...]:
    return figure.expected, figure.low, figure.high, figure.worst


def _dollars(amount: Range | None) -> tuple[str, ...]:
    return ("unknown",) * 4 if amount is None else tuple(map(usd, _numbers(amount)))


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]


def _html_row(row: Sequence[str]) -> str:
    first, *rest = map(escape, row)
    cells = "".join(f'<td style="{_CELL}">{cell}</td>' for cell in rest)
    return f'<tr style="background:none"><th style="{_LABEL}">{first}</th>{cells}</tr>'
