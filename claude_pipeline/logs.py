"""What the library tells of its work: events for the standard `logging`, with fields whose names are stable.

The logger of an event is `claude_pipeline.` and the event's area. What happens in a transaction is told once it is
committed. Prompts, answers and credentials are in no field.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from logging import DEBUG, ERROR, INFO, WARNING

LIBRARY = "claude_pipeline"
logging.getLogger(LIBRARY).addHandler(logging.NullHandler())

# Each event's level, and its message, whose braces are fields.
EVENTS = {
    "job.submitted": (INFO, "{job_id}: submitted {rows:,} rows of {source}"),
    "job.planned": (
        logging.INFO,
        "{job_id}: planned {requests:,} requests; {duplicates:,} duplicates, {reused:,} reused",
    ),
    "job.put_off": (WARNING, "{reason}"),
    "job.asks_again": (INFO, "{job_id}: asks again what was cut off or does not fit"),
    "job.blocked": (WARNING, "{job_id}: blocked. {reason}"),
    "job.resumed": (INFO, "{job_id}: resumed"),
    "job.canceling": (INFO, "{job_id}: is being canceled"),
    "job.announced": (INFO, "{job_id}: somebody was told that it is {state}"),
    "job.not_announced": (WARNING, "{job_id}: on_ended failed. {reason}"),
    "job.ended": (INFO, "{job_id}: ended, {unanswered:,} of {rows:,} rows unanswered, {cost_usd} USD"),
    "batch.planned": (INFO, "{job_id}: planned shard {shard} of {requests:,} requests"),
    "batch.uploading": (DEBUG, "{job_id}: shard {shard}, {sent:,} of {bytes:,} bytes uploaded"),
    "batch.sent": (INFO, "{job_id}: sent shard {shard} as {batch_id}, {requests:,} requests, {bytes:,} bytes"),
    "batch.refused": (WARNING, "{job_id}: shard {shard} was refused. {reason}"),
    "batch.doubtful": (WARNING, "{job_id}: nobody knows yet if shard {shard} became a batch. {reason}"),
    "batch.found": (INFO, "{job_id}: shard {shard} had become {batch_id}"),
    "batch.not_found": (INFO, "{job_id}: shard {shard} had become no batch, and is sent again"),
    "batch.ended": (INFO, "{job_id}: {batch_id} ended"),
    "batch.collected": (INFO, "{job_id}: collected {batch_id}, {succeeded:,} succeeded, {cost_usd} USD"),
    "batch.retried": (INFO, "{job_id}: {requests:,} requests of {batch_id} are asked again"),
    "batch.late": (WARNING, "{job_id}: {batch_id} lacks lines; looking again in {seconds:.0f} s. {reason}"),
    "batch.disagrees": (WARNING, "{job_id}: the results of {batch_id} do not agree. {reason}"),
    "batch.gone": (WARNING, "{job_id}: {batch_id} is gone from the API with {requests:,} requests"),
    "stream.rests": (WARNING, "The stream rests {seconds:.1f} s. {reason}"),
    "stream.retried": (INFO, "Row {row} is asked again. {reason}"),
    "stream.collected": (INFO, "{job_id}: collected {stream_id}, {succeeded:,} succeeded, {cost_usd} USD"),
    "api.called": (DEBUG, "{method} {path}: {status} after {seconds:.3f} s, {request_id}"),
    "shell.said": (INFO, "{words}"),
    "shell.failed": (ERROR, "{words}"),
    "api.failed": (DEBUG, "{method} {path}: no answer after {seconds:.3f} s ({reason})"),
}

_LINE = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_OF_EVERY_RECORD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
_held: ContextVar[list[tuple[str, dict[str, object]]] | None] = ContextVar("held", default=None)


def tell(event: str, **fields: object) -> None:
    """Log an event, or keep it until the transaction that it is part of is committed."""
    held = _held.get()
    if held is not None:
        held.append((event, fields))
        return
    level, message = EVENTS[event]
    logger = logging.getLogger(f"{LIBRARY}.{event.partition('.')[0]}")
    if logger.isEnabledFor(level):
        logger.log(level, "%s", message.format_map(fields), extra={"event": event, **fields})


@contextmanager
def held() -> Iterator[None]:
    """Tell what happens in the body when it is done, and nothing if it fails; one inside another is part of it."""
    if _held.get() is not None:
        yield
        return
    told: list[tuple[str, dict[str, object]]] = []
    token = _held.set(told)
    try:
        yield
    finally:
        _held.reset(token)
    for event, fields in told:
        tell(event, **fields)


@contextmanager
def shown(*, level: str, as_json: bool) -> Iterator[None]:
    """Write what the library logs to stderr while the body runs; what other libraries log is left alone."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if as_json else logging.Formatter(_LINE))
    with heard(handler, level=level):
        yield


@contextmanager
def heard(handler: logging.Handler, *, level: str) -> Iterator[None]:
    """Let a handler have what the library logs while the body runs."""
    logger = logging.getLogger(LIBRARY)
    before = logger.level
    logger.setLevel(level.upper())
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


class JsonFormatter(logging.Formatter):
    """Writes a record as a line of JSON: `time` (ISO 8601, UTC), `level`, `logger`, `message`, and its own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        told: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        told |= {name: value for name, value in vars(record).items() if name not in _OF_EVERY_RECORD}
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False, default=str)
