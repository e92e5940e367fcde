"""Spans for OpenTelemetry. Whoever traces has loaded it; nothing is imported here, and nothing spent without it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

Attribute = str | int | float | None
TRACEPARENT = "traceparent"


PROVIDER = "anthropic"  # of gen_ai.provider.name


class Unrecorded:
    """What stands for a span when nobody traces."""

    def note(self, **attributes: Attribute) -> None:
        """Drop attributes."""


class Recorded:
    """A span that is open."""

    def __init__(self, span: Any) -> None:  # noqa: ANN401  a Span of OpenTelemetry, which need not be there
        self._span = span

    def note(self, **attributes: Attribute) -> None:
        """Set attributes of ours, or with double underscores for dots others'; what is None is left out."""
        for name, value in attributes.items():
            if value is not None:
                named = name.replace("__", ".") if "__" in name else f"claude_pipeline.{name}"
                self._span.set_attribute(named, value)


@contextmanager
def span(name: str, *, links_to: str | None = None, **attributes: Attribute) -> Iterator[Recorded | Unrecorded]:
    """Open the span `claude_pipeline.<name>` for the body; an error that leaves it is recorded.

    Args:
        name: What is done, as the verb of the public function.
        links_to: The `traceparent` of the submit, which may have been in another process.
        **attributes: What is known at the beginning, as `Recorded.note` takes it.
    """
    if "opentelemetry.trace" not in sys.modules:
        yield Unrecorded()
        return
    tracer = sys.modules["opentelemetry.trace"].get_tracer("claude_pipeline")
    with tracer.start_as_current_span(f"claude_pipeline.{name}", links=_links(links_to)) as opened:
        recorded = Recorded(opened)
        recorded.note(**attributes)
        yield recorded


def traceparent() -> str | None:
    """Return the open span as a W3C `traceparent`, to link to from another process; None when nobody traces."""
    if "opentelemetry.trace" not in sys.modules:
        return None
    carrier: dict[str, str] = {}
    _propagator().inject(carrier)
    return carrier.get(TRACEPARENT)


def _links(links_to: str | None) -> list[Any]:
    if links_to is None:
        return []
    trace = sys.modules["opentelemetry.trace"]
    context = _propagator().extract({TRACEPARENT: links_to})
    return [trace.Link(trace.get_current_span(context).get_span_context())]


def _propagator() -> Any:  # noqa: ANN401  as above
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415  see above

    return TraceContextTextMapPropagator()
