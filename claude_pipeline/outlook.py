"""What is to come of a job: which batches matter now, and what happens next and when."""

from collections.abc import Sequence
from datetime import datetime

from claude_pipeline.status import BatchStatus, Status

_DAY = 24 * 3600.0


def nearest(batches: Sequence[BatchStatus], *, most: int) -> list[BatchStatus]:
    """Choose a few batches: the oldest that run, then those that ended last."""
    return sorted(batches, key=lambda batch: (batch.ended_at is not None, -(batch.ended_at or 0), batch.created_at))[
        :most
    ]


def upcoming(status: Status) -> str | None:
    """Say what happens next and when; None when nothing does. Times are local."""
    match status.state:
        case "planning":
            return "wait() or advance() plans its requests and sends them."
        case "in_progress":
            return _next_of_running(status)
        case "canceling":
            return "wait() or advance() collects what was answered before, once its batches have ended."
        case "blocked":
            return "Nothing, until that is mended and resume() is called."
        case "ended" if status.unanswered:
            again = " resume() asks them again." if status.batches else ""
            return f"failed() shows the rows without an answer, and why.{again}"
        case _:
            return None


def _next_of_running(status: Status) -> str | None:
    if status.is_due:
        return "wait() or advance() collects and sends what is due."
    running = [batch.created_at for batch in status.batches if batch.processing_status != "ended"]
    if not running:
        return None
    latest = datetime.fromtimestamp(max(running) + _DAY).astimezone().strftime("%a %H:%M")
    return f"Most batches end within an hour, the last of these by {latest} at the latest. wait() collects them."
