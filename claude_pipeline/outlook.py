"""What is to come of a job: which batches matter now, by when answers are expected, and what happens next."""

from collections.abc import Sequence
from datetime import datetime

from claude_pipeline.display import plural
from claude_pipeline.status import BatchStatus, Status

_HOUR, _DAY = 3600.0, 24 * 3600.0


def nearest(batches: Sequence[BatchStatus], *, most: int) -> list[BatchStatus]:
    """Choose a few batches: the oldest that run, then those that ended last."""
    return sorted(batches, key=lambda batch: (batch.ended_at is not None, -(batch.ended_at or 0), batch.created_at))[
        :most
    ]


def expected(status: Status, *, now: float) -> str | None:
    """Say how fast answers have come and by when the last are expected; None while no batch runs. Times are local.

    A batch gives nothing before it ends, so there is a rate only once one has, and what runs has only its limit of a
    day. `now` is seconds since the epoch.
    """
    running = [batch.created_at for batch in status.batches if batch.processing_status != "ended"]
    if status.state != "in_progress" or not running:
        return None
    rate = _rate(status.batches, now)
    if rate and status.counts.waiting:
        left = status.counts.waiting + status.counts.processing
        return f"{_speed(rate)} so far; at this rate the last by about {_at(now + left / rate)}."
    usual = "Most batches end within an hour, the last of these" if now - max(running) < _HOUR else "The last ends"
    ends = f"{usual} by {_at(max(running) + _DAY)} at the latest."
    return f"{_speed(rate)} so far. {ends}" if rate else ends


def _rate(batches: Sequence[BatchStatus], now: float) -> float:
    """Return how many requests a second the batches have brought that were sent in the last day and have ended."""
    ended = [batch for batch in batches if batch.ended_at is not None and 0 < now - batch.created_at < _DAY]
    first = min((batch.created_at for batch in ended), default=0.0)
    return sum(batch.requests for batch in ended) / (now - first)


def _speed(rate: float) -> str:
    by_minute = round(60 * rate)
    return f"{plural(by_minute or round(3600 * rate), 'request')} {'a minute' if by_minute else 'an hour'}"


def _at(moment: float) -> str:
    return datetime.fromtimestamp(moment).astimezone().strftime("%a %H:%M")


def upcoming(status: Status, *, now: float) -> str | None:
    """Say what happens next and when; None when nothing does. Times are local; `now` is seconds since the epoch."""
    match status.state:
        case "planning":
            return "wait() or advance() plans its requests and sends them."
        case "in_progress":
            return _next_of_running(status, now)
        case "canceling":
            return "wait() or advance() collects what was answered before, once its batches have ended."
        case "blocked":
            return "Nothing, until that is mended and resume() is called."
        case "ended" if status.unanswered:
            return f"failed() shows the rows without an answer, and why.{_once_more(status, status.unanswered)}"
        case _:
            return None


def _once_more(status: Status, unanswered: int) -> str:
    """Say how they get one after all; what was not sent has to be mended first."""
    again = " resume() asks them again." if unanswered > status.invalid and status.batches else ""
    return f"{again} Mend what could not be sent and submit the table again." if status.invalid else again


def _next_of_running(status: Status, now: float) -> str | None:
    if status.is_due:
        return "wait() or advance() collects and sends what is due."
    when = expected(status, now=now)
    return f"{when} wait() collects them." if when else None
