"""A job as text: one line, a few facts, a table."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Literal

from claude_pipeline.status import RequestCounts, Status

Fact = tuple[str, str]

LIST_HEADER = ("JOB", "STATE", "ROWS", "ANSWERED", "COST", "SUBMITTED", "BY", "NAME")
BATCH_HEADER = ("BATCH", "STATE", "REQUESTS", "ATTEMPT", "TOOK")
_AMOUNTS = {"COST", "FREES", "LEFT", "LIMIT", "LIST", "PAID TWICE", "PAYS AGAIN", "RESERVED", "SAVED", "SPENT", "TOOK"}
_RIGHT = _AMOUNTS | {"AGE", "ANSWERED", "ANSWERS", "ATTEMPT", "REQUESTS", "ROWS", "TOKENS IN", "TOKENS OUT"}


def one_line(status: Status) -> str:
    """Say in one line where a job stands."""
    parts = [plural(status.rows, "row"), _progress(status)]
    if status.batches:
        parts.append(plural(len(status.batches), "batch"))
    if status.cost_usd:
        parts.append(usd(status.cost_usd))
    return f"{status.job_id} {status.state} · {' · '.join(parts)}"


def full_line(status: Status) -> str:
    """Say in one line where a job stands, and what it waits for or why it is blocked."""
    return f"{one_line(status)} · {status.reason}" if status.reason else one_line(status)


def summary(status: Status) -> str:
    """Tell what became of a job: rows, requests, batches, tokens and cost, a line each."""
    return aligned(facts(status))


def aligned(pairs: Sequence[Fact]) -> str:
    """Write facts under each other."""
    return "\n".join(columns([(f"{label}:", text) for label, text in pairs]))


def submitted(status: Status) -> Fact:
    """Say when a job was submitted, in local time, and by whom."""
    by = submitter(status)
    return "Submitted", f"{_local(status.submitted_at)} by {by}" if by else _local(status.submitted_at)


def facts(status: Status) -> list[Fact]:
    """Return what there is to say about a job, as pairs of a label and a text."""
    every: list[tuple[str, str | None]] = [
        ("Rows", _rows(status)),
        ("Unanswered", _unanswered(status)),
        ("Not sent", " ".join(refusal.example for refusal in status.refusals)),
        ("Requests", _joined(count(status.requests), counted(status.counts))),
        ("Flagged", _flagged(status)),
        ("Asked again", _asked_again(status)),
        ("Batches", batches(status)),
        ("Tokens", tokens(status)),
        ("Cost", usd(status.cost_usd) or "? (no known price)"),
        ("Saved", _saved(status)),
        ("Took", _took(status)),
    ]
    return [(label, text) for label, text in every if text]


def job_cells(status: Status) -> tuple[str, ...]:
    """Return a job's cells under `LIST_HEADER`; times are local."""
    cost = usd(status.cost_usd) or "?"
    who = _local(status.submitted_at), submitter(status) or "-", status.name or "-"
    state = "pruned" if status.pruned_at else status.state
    return status.job_id, state, count(status.rows), _answered_share(status), cost, *who


def submitter(status: Status) -> str | None:
    """Write who submitted a job, and on which host, without the domain."""
    host = (status.submitted_from or "").partition(".")[0]
    return "@".join(filter(None, (status.submitted_by, host))) or None


def batch_cells(status: Status, *, now: float) -> list[tuple[str, ...]]:
    """Return the cells of a job's batches under `BATCH_HEADER`; `now` is seconds since the epoch."""
    return [
        (
            batch.batch_id,
            batch.processing_status,
            count(batch.requests),
            count(batch.attempt),
            duration((batch.ended_at or now) - batch.created_at),
        )
        for batch in status.batches
    ]


def alignment(heading: str) -> Literal["left", "right"]:
    """Tell on which side a column stands: figures to the right."""
    return "right" if heading in _RIGHT else "left"


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align cells under each other, the last column ragged; figures to the right when the first row says so."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    rights = [alignment(heading) == "right" for heading in rows[0]]
    return [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, rights, strict=True)
        ).rstrip()
        for row in rows
    ]


def count(number: int) -> str:
    """Write a whole number with its thousands apart."""
    return f"{number:,}"


def plural(number: int, noun: str) -> str:
    """Write a number and its noun: `1 row`, `2 batches`."""
    many = f"{noun}es" if noun.endswith("ch") else f"{noun}s"
    return f"{count(number)} {noun if number == 1 else many}"


def usd(amount: float | None) -> str:
    """Write dollars with the digits that matter, and nothing for an unknown price."""
    if amount is None:
        return ""
    if amount < 0:
        return f"-{usd(-amount)}"
    if 0 < amount < 0.0001:  # noqa: PLR2004  # the smallest amount that four digits show
        return "<$0.0001"
    return f"${amount:,.4f}" if 0 < amount < 0.1 else f"${amount:,.2f}"  # noqa: PLR2004  # a dime


def day(moment: float) -> str:
    """Write the local day of a moment, given in seconds since the epoch."""
    return datetime.fromtimestamp(moment).astimezone().date().isoformat()


def size(number: float) -> str:
    """Write bytes with three digits: `4.2 kB`."""
    for unit in ("bytes", "kB", "MB"):
        if number < 1000:  # noqa: PLR2004  a thousand of one is one of the next
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.1f} GB"


def duration(seconds: float) -> str:
    """Write a span of time as a person says it: `8 s`, `4 min 10 s`, `2 h 5 min`."""
    whole = max(0, round(seconds))
    minutes, hours = whole // 60, whole // 3600
    if not minutes:
        return f"{whole} s"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min {whole % 60} s"


def tokens(status: Status) -> str:
    """Write the tokens of prompts, with the share that came from the cache, and of answers."""
    known = status.cache_hit_rate is not None
    cached = f" ({100 * status.cache_read_tokens // status.prompt_tokens}% from cache)" if known else ""
    return f"{count(status.prompt_tokens)} in{cached}, {count(status.output_tokens)} out"


def batches(status: Status) -> str:
    """Write how many batches there are and how many have ended."""
    total = len(status.batches)
    ended = sum(batch.processing_status == "ended" for batch in status.batches)
    return count(total) if ended == total else f"{count(ended)} of {count(total)} ended"


def percent(status: Status) -> str:
    """Write how much of a job's requests has come to a result."""
    if status.state == "ended" or not status.requests:
        return "100%" if status.state == "ended" else "0%"
    return f"{100 * status.counts.finished // status.requests}%"


def counted(counts: RequestCounts) -> str:
    """Write the states that requests are in, the empty ones left out."""
    return ", ".join(f"{count(number)} {state}" for state, number in by_state(counts) if number)


def by_state(counts: RequestCounts) -> Iterator[tuple[str, int]]:
    """Yield each state of requests and how many are in it, the nearest to an answer first."""
    for state in ("succeeded", "errored", "expired", "canceled", "processing", "waiting"):
        yield state, getattr(counts, state)


def _answered_share(status: Status) -> str:
    answered, wanted = status.counts.succeeded, status.requests
    if status.unanswered is not None:
        wanted = status.rows - status.skipped
        answered = wanted - status.unanswered
    return f"{100 * answered // wanted}%" if wanted else "-"


def _progress(status: Status) -> str:
    if status.unanswered is not None:
        return f"{count(status.rows - status.skipped - status.unanswered)} answered"
    return f"{count(status.counts.succeeded)} of {plural(status.requests, 'request')} answered"


def _rows(status: Status) -> str:
    parts = []
    if status.unanswered is not None:
        parts.append(f"{count(status.rows - status.skipped - status.unanswered)} answered")
    if status.skipped:
        parts.append(f"{count(status.skipped)} skipped (blank prompt)")
    if status.unanswered:
        parts.append(f"{count(status.unanswered)} unanswered")
    return _joined(count(status.rows), ", ".join(parts))


def _unanswered(status: Status) -> str | None:
    if not status.unanswered:
        return None
    counts = status.counts
    reasons = [("errored", counts.errored), ("expired", counts.expired), ("canceled", counts.canceled)]
    parts = [f"{plural(number, 'request')} {reason}" for reason, number in reasons if number]
    parts += [f"{plural(refusal.rows, 'row')} not sent ({refusal.error_type})" for refusal in status.refusals]
    return _joined(plural(status.unanswered, "row"), ", ".join(parts))


def _asked_again(status: Status) -> str | None:
    again = status.again
    return _joined(plural(again.total, "request"), counted(again)) if again.total else None


def _flagged(status: Status) -> str:
    kinds = [
        (status.truncated, "cut off at max_tokens"),
        (status.refused, "refused"),
        (status.paused, "paused in a turn"),
        (status.misfits, "of another form than asked for"),
    ]
    return ", ".join(f"{plural(number, 'answer')} {kind}" for number, kind in kinds if number)


def _local(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")


def _took(status: Status) -> str | None:
    return duration(status.ended_at - status.created_at) if status.ended_at else None


def _saved(status: Status) -> str | None:
    """Write what was saved by what; before there are dollars, or without a price, what was not asked."""
    saved, unasked = status.saved, _unasked(status)
    amounts = [(saved.batch_usd, "batches"), (saved.caching_usd, "caching"), *unasked]
    if not any(amount for amount, _ in amounts):
        words = ", ".join(what for _, what in unasked)
        return f"{words}: not asked, not paid" if words else None
    parts = [f"{usd(amount) or '?'} by {what}" for amount, what in amounts if amount != 0]
    head = usd(saved.total) or "?"
    return _joined(head, ", ".join(parts)) if len(parts) > 1 else parts[0]


def _unasked(status: Status) -> list[tuple[float | None, str]]:
    rows = [
        (status.duplicates, status.saved.duplicates_usd, "duplicate"),
        (status.reused, status.saved.reused_usd, "reused row"),
    ]
    return [(amount, plural(number, noun)) for number, amount, noun in rows if number]


def _joined(head: str, rest: str) -> str:
    return f"{head}: {rest}" if rest else head
