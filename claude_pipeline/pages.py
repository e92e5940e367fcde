"""A job as a page of its own: the card, pictures, and what went wrong. No script, nothing from the network."""

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from claude_pipeline import display, pictures
from claude_pipeline.cards import card
from claude_pipeline.errors import OutputError
from claude_pipeline.files import replacing
from claude_pipeline.records import JobRecord
from claude_pipeline.status import BatchStatus, Status
from claude_pipeline.store import Store
from claude_pipeline.tallying import Tally, tally

_STYLE = """
:root { color-scheme: light dark }
body { margin: 0 auto; padding: 16px; max-width: 72em; font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
body > div { max-width: none !important }
h1 { font-size: 1.4em } h2 { font-size: 1em; margin: 0 0 4px }
main { display: grid; gap: 28px; margin: 24px 0 }
main { grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)) }
svg { width: 100%; height: auto }
dt { font-weight: 600; margin-top: 12px } dd { margin: 2px 0 2px 16px; opacity: .85 }
p { margin: 4px 0 }
"""
_UNITS = ((3 * 3600.0, 3600.0, "hours"), (180.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))
_MOST_BATCHES = 12


def write_page(store: Store, job: JobRecord, status: Status, path: str | os.PathLike[str]) -> Path:
    """Write a job's report as one HTML file; it appears whole or not at all.

    Raises:
        OutputError: There is no such folder, or the path is one.
        PipelineError: matplotlib is missing.
    """
    target = Path(path).expanduser().absolute()
    if target.is_dir():
        raise OutputError(f"{path} is a folder. Name a file in it, such as {Path(path) / 'report.html'}.")
    if not target.parent.is_dir():
        raise OutputError(f"There is no folder {target.parent} to write {target.name} to. Create it first.")
    pictures.check_plotting()
    html = page(status, tally(store, job), now=time.time())
    with replacing(target) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return target


def page(status: Status, counted: Tally, *, now: float) -> str:
    """Draw a status and what its rows came to; `now` is seconds since the epoch."""
    title = escape(" · ".join(filter(None, (status.name, status.job_id))))
    figures = "".join(
        f"<section><h2>{escape(title)}</h2>{body}</section>" for title, body in _sections(status, counted)
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body><h1><bdi>{title}</bdi></h1>"
        f"<p>{_as_of(status, now)}</p>{card(status, now=now)}<main>{figures}</main>{_errors(counted)}</body></html>\n"
    )


def _as_of(status: Status, now: float) -> str:
    moment = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M UTC")
    unfinished = "" if status.state == "ended" else " This job has not ended: what follows is what is known by now."
    return f"As of {moment}.{unfinished}"


def _sections(status: Status, counted: Tally) -> Iterator[tuple[str, str]]:
    """Yield the title and the picture of all there is something to show of."""
    yield "Rows", pictures.bars(_rows(status, counted), unit="rows", label="Rows by result")
    if status.batches:
        yield "Requests over time", _over_time(status)
    took = [batch for batch in status.batches if batch.ended_at is not None]
    if took:
        yield "How long batches took", _latency(took)
    if counted.lengths.any():
        yield "Output tokens", pictures.histogram(counted.lengths, unit="output tokens", label="Output tokens")
    if counted.stop_reasons:
        reasons = {reason: float(rows) for reason, rows in counted.stop_reasons.items()}
        yield "Stop reasons", pictures.bars(reasons, unit="answers", label="Answers by stop reason")
    if any(counted.costs.values()):
        yield "Cost by model", pictures.bars(dict(counted.costs), unit="US dollars", label="Dollars by model")
    if counted.errors:
        errors = {kind: float(rows) for kind, rows in counted.errors.items()}
        yield "Errors by type", pictures.bars(errors, unit="rows", label="Rows by error")


def _rows(status: Status, counted: Tally) -> dict[str, float]:
    without = counted.results[None] - status.skipped
    known = {kind: float(rows) for kind, rows in counted.results.items() if kind}
    return known | {name: rows for name, rows in (("skipped", status.skipped), ("no result", without)) if rows > 0}


def _over_time(status: Status) -> str:
    first = min(batch.created_at for batch in status.batches)
    sent = [(batch.created_at - first, batch.requests) for batch in status.batches]
    ended = [(batch.ended_at - first, batch.requests) for batch in status.batches if batch.ended_at is not None]
    latest = max(at for at, _ in [*sent, *ended])
    size, unit = _unit(latest)
    lines = {
        name: [(at / size, requests) for at, requests in [(0.0, 0), *points, (latest, 0)]]
        for name, points in (("sent", sent), ("ended", ended))
    }
    return pictures.steps(lines, unit=f"{unit} since the first batch was sent", label="Requests over time")


def _latency(batches: list[BatchStatus]) -> str:
    seconds = {batch.batch_id: (batch.ended_at or 0.0) - batch.created_at for batch in batches}
    size, unit = _unit(max(seconds.values()))
    slowest = sorted(seconds, key=lambda batch: -seconds[batch])[:_MOST_BATCHES]
    picture = pictures.bars(
        {batch: seconds[batch] / size for batch in slowest}, unit=unit, label="How long batches took"
    )
    left_out = len(batches) - len(slowest)
    return picture + (f"<p>The slowest of {display.plural(len(batches), 'batch')}.</p>" if left_out else "")


def _unit(seconds: float) -> tuple[float, str]:
    """Choose the unit of time in which a span is a number that one can read, and its seconds."""
    return next((size, unit) for least, size, unit in _UNITS if max(seconds, 0.0) >= least)


def _errors(counted: Tally) -> str:
    if not counted.errors:
        return ""
    told = [
        f"<dt><bdi>{escape(kind)}</bdi>: {display.plural(rows, 'row')}</dt>"
        + "".join(f"<dd><bdi>{escape(example)}</bdi></dd>" for example in counted.examples[kind])
        for kind, rows in counted.errors.most_common()
    ]
    return f"<h2>What went wrong</h2><dl>{''.join(told)}</dl>"
