"""Spans from submit to collect, the SDK's own among them; nothing without whoever wants them."""

import subprocess
import sys

import pyarrow as pa
import pytest
from conftest import submit_to
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import claude_pipeline as cp
from claude_pipeline import traces

EXPORTER = InMemorySpanExporter()


@pytest.fixture(autouse=True, scope="module")
def _tracing():
    before = trace._TRACER_PROVIDER
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(EXPORTER))
    trace._TRACER_PROVIDER = provider  # the public way sets it for good, for the tests of other modules too
    yield
    trace._TRACER_PROVIDER = before


@pytest.fixture
def spans(_tracing):
    EXPORTER.clear()
    return EXPORTER.get_finished_spans


def named(spans, name):
    return [span for span in spans() if span.name == name]


def ancestors(spans, span):
    known = {one.context.span_id: one for one in spans()}
    while span.parent and span.parent.span_id in known:
        span = known[span.parent.span_id]
        yield span.name


def test_a_submit_is_a_trace_down_to_the_create_call_of_the_sdk(spans, ask):
    job = ask(["one"])
    (sent,) = named(spans, "claude_pipeline.send")
    (created,) = named(spans, "anthropic.messages.batches.create")
    assert [*ancestors(spans, created)] == ["claude_pipeline.send", "claude_pipeline.advance", "claude_pipeline.submit"]
    assert created.attributes["http.response.status_code"] == 200
    assert sent.attributes["claude_pipeline.job_id"] == job.job_id
    assert sent.attributes["gen_ai.request.model"] == "claude-haiku-4-5"
    assert sent.attributes["claude_pipeline.batch_id"].startswith("msgbatch_")


def test_a_later_collect_is_linked_to_the_submit_and_tells_the_usage(spans, ask, sandbox, store):
    job = ask(["one"])
    (submitted,) = named(spans, "claude_pipeline.submit")
    EXPORTER.clear()
    cp.advance(store=store, base_url=sandbox.url)
    (collected,) = named(spans, "claude_pipeline.collect")
    assert [link.context.span_id for link in collected.links] == [submitted.context.span_id]
    assert [link.context.trace_id for link in collected.links] == [submitted.context.trace_id]
    assert [*ancestors(spans, collected)] == ["claude_pipeline.advance"]
    (fetched,) = named(spans, "anthropic.messages.batches.results")
    assert next(ancestors(spans, fetched)) == "claude_pipeline.collect"
    assert collected.attributes["gen_ai.usage.output_tokens"] == job.status().output_tokens
    assert collected.attributes["gen_ai.usage.input_tokens"] == job.status().input_tokens


def test_a_refusal_and_an_error_are_on_the_span(spans, store):
    with cp.Sandbox(faults={"create": [{"fault": 429, "times": 1, "retry_after": 30}]}) as sandbox:
        submit_to(sandbox, ["one"], store=store)
    (sent,) = named(spans, "claude_pipeline.send")
    assert sent.attributes["error.type"] == "rate_limit_error"
    with pytest.raises(cp.StoreError), traces.span("advance"):
        raise cp.StoreError("The disk is full.")
    failed = named(spans, "claude_pipeline.advance")[-1]
    assert (failed.status.is_ok, failed.events[0].name) == (False, "exception")


def test_a_streamed_row_has_a_span_with_the_call_in_it(spans, sandbox, store):
    options = {"prompt_column": "text", "model": "claude-haiku-4-5", "max_tokens": 9, "base_url": sandbox.url}
    (row,) = cp.stream(pa.table({"text": ["a prompt like no other"]}), store=store, **options)
    (asked,) = named(spans, "claude_pipeline.stream.row")
    (begun,) = named(spans, "claude_pipeline.stream")
    (called,) = named(spans, "anthropic.messages.create")
    assert next(ancestors(spans, called)) == "claude_pipeline.stream.row"
    assert [link.context.span_id for link in asked.links] == [begun.context.span_id]
    assert row.result_type == "succeeded"
    assert "like no other" not in "".join(span.to_json() for span in spans())


def test_without_opentelemetry_nothing_of_it_is_loaded():
    code = (
        "import sys; from claude_pipeline.traces import span, traceparent\n"
        "with span('advance', job_id='x') as opened: opened.note(batch_id='y')\n"
        "print(traceparent(), [name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "None []\n"
