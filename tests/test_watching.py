"""A stream while it is watched: in a notebook, on a terminal, and where nobody looks."""

import re

import nbformat
import pandas as pd
import pytest
from streams import OLD, asked_messages, echo
from test_notebook import outputs, run

import claude_pipeline as cp
from claude_pipeline.streamed import StreamedRow
from claude_pipeline.watching import Line, Watch


def row(number, **known):
    return StreamedRow(row=number, input={}, output={}, **known)


def done(number, response="yes", **known):
    return row(number, result_type="succeeded", response=response, output_tokens=3, cost_usd=0.5, **known)


def test_lines_are_in_the_order_of_the_input_and_say_how_each_row_stands():
    watch = Watch()
    watch.hear(4, "so\nfar ")
    watch.hear(4, "so good")
    watch.take(done(1, "two\nlines"))
    watch.take(done(0, "odd", error_type="invalid_output"))
    watch.take(row(2, result_type="errored", error_type="api_error", error_message="No luck."))
    watch.take(row(3, batch_id="msgbatch_1"))
    assert watch.lines() == [
        Line(1, "!", "odd"),
        Line(2, "✓", "two lines"),
        Line(3, "✗", "api_error: No luck."),
        Line(4, "→", "in progress in batch msgbatch_1"),
        Line(5, "…", "so far so good"),
    ]


def test_figures_are_of_what_was_asked_now():
    watch = Watch()
    watch.take(done(0, seconds_to_first_token=0.1))
    watch.take(done(1))
    watch.hear(2, "…")
    assert watch.head().startswith("2 done · 1 under way · 3 tokens · $1.00 · ")
    watch.take(row(3, result_type="succeeded", cost_usd=None))
    assert " · ? · " in watch.head()


def test_a_row_that_begins_anew_forgets_what_it_said_and_one_that_goes_on_does_not():
    watch = Watch()
    watch.hear(0, "begun")
    watch.note(0, {"type": "retry", "continues": True})
    assert watch.lines()[0].text == "begun"
    watch.note(0, {"type": "retry", "continues": False})
    watch.note(0, {"type": "ping"})
    watch.hear(0, "anew")
    assert watch.lines()[0].text == "anew"


def test_rows_under_way_go_first_and_long_texts_are_cut():
    watch = Watch()
    for number in range(20):
        watch.take(done(number, "x" * 50))
    for number in range(20, 23):
        watch.hear(number, "y" * 50)
    lines = watch.lines(5, width=10)
    assert [line.number for line in lines] == [19, 20, 21, 22, 23]
    assert (lines[0].text, lines[-1].text) == ("x" * 9 + "…", "…" + "y" * 9)
    assert watch.lines(0) == []


@pytest.fixture
def sandbox():
    with cp.Sandbox(answer=echo) as server:
        yield server


def ask(sandbox, store, **options):
    frame = pd.DataFrame({"text": ["one", "two"]}, index=["a", "b"])
    asked = {"prompt_column": "text", "model": OLD, "max_tokens": 64, "base_url": sandbox.url, "store": store}
    return cp.stream_frame(frame, **asked, **options)


def test_a_frame_comes_back_with_its_index_and_its_answers(sandbox, store):
    assert ask(sandbox, store)["response"].to_dict() == {"a": "one", "b": "two"}
    assert len(asked_messages(sandbox)) == 2
    assert ask(sandbox, store)["response"].to_dict() == {"a": "one", "b": "two"}
    assert len(asked_messages(sandbox)) == 2


def test_whoever_watches_may_listen_too(sandbox, store):
    texts, events = [], []
    ask(
        sandbox,
        store,
        on_text=lambda row, text: texts.append((row, text)),
        on_event=lambda _, event: events.append(event),
    )
    assert sorted(texts) == [(0, "one"), (1, "two")]
    assert {event["type"] for event in events} >= {"message_start", "message_stop"}


def test_nothing_is_printed_where_nobody_sees_it(sandbox, store, capsys):
    ask(sandbox, store)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_is_told_of_each_row_that_is_done(sandbox, store, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    ask(sandbox, store)
    said = capsys.readouterr().err.splitlines()
    assert sorted(said[:2]) == ["    1  ✓  one", "    2  ✓  two"]
    assert said[2].startswith("2 done · 0 under way · 2 tokens · ")


CELLS = [
    """
import pandas as pd
import claude_pipeline as cp

sandbox = cp.Sandbox(answer=lambda params: params["messages"][-1]["content"], latency=0.3)
sandbox.__enter__()
""",
    """
cp.stream_frame(
    pd.DataFrame({"text": ["<b>one</b>", "two"]}),
    prompt_column="text", model="claude-haiku-4-5", max_tokens=64, base_url=sandbox.url, store="store",
)
""",
    "sandbox.__exit__()",
]


def test_a_notebook_shows_the_figures_and_then_the_table(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    cell = run(notebook, tmp_path).cells[1]
    live, table = cell.outputs
    assert live.output_type == "display_data"
    assert re.search(r"2 done · 0 under way · \d+ tokens", live.data["text/html"])
    assert "<b>one</b>" not in live.data["text/html"]
    assert "two" in table.data["text/html"]
    assert outputs(cell)
