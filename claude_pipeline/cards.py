"""A job as a small HTML card, for notebooks. What it says is read without its styles too."""

from html import escape

from claude_pipeline import display, outlook
from claude_pipeline.status import BatchStatus, Status

_BATCHES = 4

# Notebooks are light or dark: colours of the middle are seen on both, and text takes the page's own.
_GREEN, _BLUE, _AMBER, _RED, _PLUM, _GRAY = "#2e8b57", "#2f6fdb", "#b7791f", "#c94a4a", "#9c5fa8", "#8a8f98"
_BAR = {
    "succeeded": _GREEN,
    "errored": _RED,
    "expired": _PLUM,
    "canceled": _AMBER,
    "processing": _BLUE,
    "waiting": _GRAY,
}
_STATE = {"planning": _GRAY, "in_progress": _BLUE, "canceling": _AMBER, "blocked": _RED, "ended": _GREEN}

_FRAME = (
    "box-sizing:border-box;max-width:60em;margin:4px 0;padding:12px 16px;border:1px solid rgba(128,128,128,.4);"
    "border-radius:8px;font:13px/1.5 system-ui,sans-serif;overflow-wrap:anywhere"
)
_HEAD = "display:flex;flex-wrap:wrap;align-items:center;gap:2px 10px"
_ID = "font:600 13px ui-monospace,monospace"
_PILL = "padding:0 8px;border-radius:9px;font-size:12px;border:1px solid"
_TRACK = "display:flex;gap:1px;height:8px;margin:10px 0 4px;border-radius:4px;overflow:hidden"
_LEGEND = "display:flex;flex-wrap:wrap;gap:0 14px"
_DOT = "display:inline-block;width:8px;height:8px;margin-right:5px;border-radius:50%"
_FACTS = "margin-top:6px"
_LABEL = "display:inline-block;width:7.5em;flex:none;opacity:.7"
_BATCH = "display:flex;flex-wrap:wrap;gap:0 12px"
_MONO = "font:12px/1.6 ui-monospace,monospace"
_REASON = "margin-top:8px;padding-left:10px;border-left:3px solid"


def framed(content: str) -> str:
    """Put HTML into the frame that whatever is shown in a notebook has."""
    return _div(_FRAME, content)


def fact(label: str, html: str) -> str:
    """Put HTML beside its label, on a line of its own."""
    return f'<div style="display:flex"><span style="{_LABEL}">{escape(label)}</span> <span>{html}</span></div>'


def card(status: Status, *, now: float) -> str:
    """Draw a status as one HTML element: no script, its styles inline, all that it shows escaped.

    `now` is seconds since the epoch.
    """
    parts = [_head(status), _bar(status), _legend(status), _facts(status, now), _reason(status)]
    return framed("".join(parts))


def _head(status: Status) -> str:
    name = f"<bdi><strong>{escape(status.name)}</strong></bdi> " if status.name else ""
    color = _AMBER if status.unanswered else _STATE[status.state]
    state = f'<span style="{_PILL} {color}">{escape(status.state)}</span> '
    model = f'<bdi style="opacity:.7">{escape(status.model)}</bdi>'
    return _div(_HEAD, f'{name}<span style="{_ID}">{escape(status.job_id)}</span> {state}{model}')


def _bar(status: Status) -> str:
    shares = [
        f'<span style="flex:{number} 1 0;min-width:3px;background:{_BAR[state]}"></span>'
        for state, number in display.by_state(status.counts)
        if number
    ]
    return _div(_TRACK, "".join(shares)) if shares else ""


def _legend(status: Status) -> str:
    entries = [
        f'<span><span style="{_DOT};background:{_BAR[state]}"></span>{display.count(number)} {state}</span> '
        for state, number in display.by_state(status.counts)
        if number
    ]
    done = f"{display.percent(status)} of {display.plural(status.requests, 'request')}"
    whole = f'<span style="margin-left:auto;opacity:.7">{done}</span>'
    return _div(_LEGEND, "".join(entries) + whole) if entries else ""


def _facts(status: Status, now: float) -> str:
    known = [(label, escape(text)) for label, text in display.facts(status) if label not in _left_out(status)]
    at = next((place for place, (label, _) in enumerate(known, 1) if label == "Batches"), len(known))
    known[at:at] = [("", _batch(batch, now)) for batch in outlook.nearest(status.batches, most=_BATCHES)]
    upcoming = outlook.upcoming(status, now=now)
    lines = [*known, ("Next", escape(upcoming))] if upcoming else known
    return _div(_FACTS, "".join(fact(label, html) for label, html in lines))


def _batch(batch: BatchStatus, now: float) -> str:
    parts = [f'<span style="{_MONO}">{escape(batch.batch_id)}</span>', display.plural(batch.requests, "request")]
    if batch.attempt > 1:
        parts.append(f"attempt {batch.attempt}")
    if batch.ended_at is None:
        parts.append(f"{batch.processing_status} for {display.duration(now - batch.created_at)}")
    else:
        parts.append(f"ended after {display.duration(batch.ended_at - batch.created_at)}")
    return f'<span style="{_BATCH}">' + " ".join(f"<span>{part}</span>" for part in parts) + "</span>"


def _left_out(status: Status) -> set[str]:
    """Name the facts that the bar shows already, and those that are still nothing."""
    spent = {"Tokens", "Cost"} if not status.prompt_tokens else set()
    sent = {"Batches"} if not status.batches else set()
    return {"Requests", *spent, *sent}


def _reason(status: Status) -> str:
    if not status.reason:
        return ""
    return _div(f"{_REASON} {_STATE[status.state]}", f"<bdi>{escape(status.reason)}</bdi>")


def _div(style: str, content: str) -> str:
    return f'<div style="{style}">{content}</div>'
