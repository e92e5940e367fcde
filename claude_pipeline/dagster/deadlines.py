"""Batches whose time runs out: they expire after 24 hours, and their results are kept for 29 days."""

from collections.abc import Iterator

import claude_pipeline as cp

_HOUR, _DAY = 3600.0, 24 * 3600.0
_EXPIRES, _EXPIRES_SOON = 24 * _HOUR, 2 * _HOUR
_KEPT, _KEPT_SOON = 29 * _DAY, 2 * _DAY


def warnings_of(status: "cp.Status", *, now: float) -> Iterator[str]:
    """Yield what to look after in an open job, in words; `now` is in seconds since the epoch."""
    for batch in status.batches:
        age = now - batch.created_at
        if batch.processing_status != "ended" and age > _EXPIRES - _EXPIRES_SOON:
            yield (
                f"Warning: batch {batch.batch_id} expires {_when(_EXPIRES - age)}; "
                "what has no answer by then is asked again, as often as max_attempts allows."
            )
        elif batch.processing_status == "ended" and status.is_due and age > _KEPT - _KEPT_SOON:
            yield (
                f"Warning: the API keeps the results of batch {batch.batch_id} no longer than "
                f"{_when(_KEPT - age)}. Let a run collect them before."
            )


def _when(seconds: float) -> str:
    hours = round(seconds / _HOUR)
    return "within the hour" if hours < 1 else f"in about {hours} h"
