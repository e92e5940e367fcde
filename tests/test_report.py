"""A job's report: one page that needs nothing else, whatever came to pass."""

import re
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from conftest import submit_to
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from test_card import ENDED, RUNNING, Page

import claude_pipeline as cp
from claude_pipeline import pictures
from claude_pipeline.cli import main
from claude_pipeline.errors import OutputError, PipelineError
from claude_pipeline.pages import page
from claude_pipeline.tallying import Tally

WILD = "<script>alert(1)</script> $x$ & 'quoted' \u202e"
VOID = {"meta"}
DRAWN = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "main", "svg", "defs", "g", "path", "use"}
DRAWN |= {"clippath", "rect", "text", "metadata", "rdf:rdf", "cc:work", "dc:title"}


class Drawn(Page):
    """A page in which some elements are never closed."""

    def handle_starttag(self, tag, attrs):
        super().handle_starttag(tag, attrs)
        if tag in VOID:
            self.open.pop()


def answer(params):
    said = params["messages"][0]["content"]
    reason = "max_tokens" if "cut" in said else "end_turn"
    return {"content": [{"type": "text", "text": "word " * len(said)}], "stop_reason": reason}


@pytest.fixture
def sandbox():
    faults = {"rows": [{"fault": "invalid_request_error", "positions": [2], "message": WILD}]}
    with cp.Sandbox(answer=answer, faults=faults) as server:
        yield server


def read(path):
    text = path.read_text(encoding="utf-8")
    drawn = Drawn(text)
    assert not drawn.open
    assert not {"script", "link", "img", "iframe", "image"} & {tag for tag, _ in drawn.elements}
    assert not re.search(r"(src|href)=\"(?!#)", text.replace("xlink:", ""))
    return " ".join(" ".join(drawn.texts).split())


def test_a_report_shows_rows_time_tokens_reasons_cost_and_errors_with_examples(ask, tmp_path):
    job = ask(["secret a", "bad", "cut short", " "], name=WILD)
    job.wait(poll_interval=0)
    said = read(job.report(tmp_path / "report.html"))
    for part in (
        "As of 20",
        "succeeded",
        "skipped",
        "Requests over time",
        "How long batches took",
        "Output tokens",
        "Stop reasons",
        "max_tokens",
        "Cost by model",
        "claude-haiku-4-5",
        "invalid_request_error : 1 row",
        "<script>alert(1)</script> $x$ &",
    ):
        assert part in said
    assert "secret" not in said
    assert "has not ended" not in said


def test_a_report_before_the_end_says_so(store, tmp_path):
    with cp.Sandbox(batch_seconds=3600) as server:
        said = read(submit_to(server, ["a"], store=store).report(tmp_path / "report.html"))
    assert "This job has not ended" in said
    assert "no result" in said


def test_a_job_that_was_streamed_has_a_report(sandbox, store, tmp_path):
    place = {"base_url": sandbox.url, "store": store}
    asked = {"prompt_column": "text", "model": "claude-haiku-4-5", "max_tokens": 64}
    with cp.stream(pa.table({"text": ["one"]}), **asked, **place) as rows:
        assert len(list(rows)) == 1
    said = read(rows.job.report(tmp_path / "report.html"))
    assert "Stop reasons" in said
    assert "over time" not in said


def test_the_shell_writes_the_same_page(ask, store, tmp_path, capsys):
    job = ask(["a"]).wait(poll_interval=0)
    path = tmp_path / "report.html"
    main(["report", job.job_id, "--out", str(path), "--store", str(store)], standalone_mode=False)
    assert job.job_id in read(path)
    assert f"Written to {path}" in capsys.readouterr().err


@settings(max_examples=5, phases=[Phase.explicit, Phase.generate])
@example(name=WILD, message="</bdi>" + WILD, kind="</svg>" + WILD)
@given(st.text(min_size=1), st.text(), st.text(min_size=1))
def test_whatever_stands_in_names_and_errors_stays_text(name, message, kind):
    counted = Tally(results=Counter([None]))
    counted._blame(kind, message)
    drawn = Drawn(page(replace(ENDED, name=name, batches=()), counted, now=0.0))
    assert not drawn.open
    assert {tag for tag, _ in drawn.elements} - DRAWN <= {"bdi", "dd", "div", "dl", "dt", "section", "span", "strong"}
    assert {kind, message} - {""} <= set(drawn.texts)


def test_what_took_hours_is_told_in_hours_and_what_took_seconds_in_seconds():
    slow = replace(RUNNING.batches[0], ended_at=9 * 3600.0)
    assert "hours since the first" in page(replace(ENDED, batches=(slow,)), Tally(), now=0.0)
    quick = replace(slow, ended_at=9.0)
    assert "seconds since the first" in page(replace(ENDED, batches=(quick,)), Tally(), now=0.0)


def test_a_tally_keeps_no_more_than_counts_and_a_few_short_examples():
    counted = Tally()
    names = ["result_type", "stop_reason", "output_tokens", "model", "cost_usd", "error_type", "error_message"]
    rows = [("succeeded", "end_turn", 7, "m", 0.5, None, None)] * 3
    rows += [("errored", None, None, None, 0.0, "api_error", f"{n} {'x' * 1000}") for n in range(9)]
    for _ in range(2):
        counted.add(pa.record_batch([pa.array(column) for column in zip(*rows, strict=True)], names=names))
    assert (counted.results, counted.costs) == ({"succeeded": 6, "errored": 18}, {"m": 3.0})
    assert np.flatnonzero(counted.lengths).tolist() == [7]
    assert [len(example) for example in counted.examples["api_error"]] == [301] * 3


def test_pictures_take_their_colours_from_the_page():
    drawn = pictures.bars({"a $1$ <b>": 1.0}, unit="rows", label="Rows")
    assert "currentColor" in drawn
    assert "a $1$ &lt;b&gt;" in drawn
    assert drawn == pictures.bars({"a $1$ <b>": 1.0}, unit="rows", label="Rows")


def test_bad_places_and_a_missing_library_are_named_before_anything_is_read(ask, tmp_path, monkeypatch):
    job = ask(["a"])
    with pytest.raises(OutputError, match="is a folder"):
        job.report(tmp_path)
    with pytest.raises(OutputError, match="There is no folder"):
        job.report(tmp_path / "none" / "report.html")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PipelineError, match=r"pip install \"claude-pipeline\[plot\]\""):
        job.report(tmp_path / "report.html")
