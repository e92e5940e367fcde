"""What a store has cost: the same sum by day, by model and by job, and to the cent what its rows say."""

import json
import sqlite3
import sys
import tempfile
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import claude_pipeline as cp
from claude_pipeline.arrays import make_record_batch
from claude_pipeline.cli import main
from claude_pipeline.pricing import PriceList
from claude_pipeline.results import RESULT_SCHEMA
from claude_pipeline.spending import Spending

MODELS = ["claude-haiku-4-5", "claude-sonnet-4-5", "claude-opus-4-5"]
TABLE = pa.table({"text": [f"Say {n}." for n in range(30)], "llm": [MODELS[n % 3] for n in range(30)]})
DAY = 86_400.0
FIGURES = ["answers", "input_tokens", "output_tokens", "cost_usd", "list_usd", "saved_usd"]


def run(*words):
    return CliRunner().invoke(main, list(map(str, words)))


def change(store, sql, *values):
    with closing(sqlite3.connect(store / "ledger.sqlite")) as connection, connection:
        connection.execute(sql, values)


@pytest.fixture(scope="module")
def spent():
    """Give a store with batches of several models, one job that reuses answers, and a stream."""
    with cp.Sandbox() as server, tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        options = {"max_tokens": 64, "store": store, "base_url": server.url}
        mixed = cp.submit(TABLE, prompt_column="text", params_columns={"model": "llm"}, name="mixed", **options)
        mixed.wait(poll_interval=0)
        cp.submit(
            TABLE.slice(0, 9), prompt_column="text", params_columns={"model": "llm"}, name="again", **options
        ).wait(poll_interval=0)
        with cp.stream(TABLE.slice(0, 5), template="Live: {text}", model=MODELS[0], **options) as stream:
            live = list(stream)
        yield store, mixed, live


def figures(table):
    return {name: None if None in (cells := table[name].to_pylist()) else sum(cells) for name in FIGURES}


def test_costs_are_what_stands_on_the_rows_and_a_batch_saves_half_of_the_list_price(spent):
    store, mixed, live = spent
    rows = mixed.to_arrow().to_pylist()
    streamed = sum(row.cost_usd for row in live)
    by_model = {row["model"]: row for row in cp.costs(by="model", store=store).to_pylist()}
    paid = [row["cost_usd"] for row in by_model.values()]
    assert paid == sorted(paid, reverse=True)
    for model, row in by_model.items():
        live_usd = streamed if model == MODELS[0] else 0.0
        batch_usd = sum(row["cost_usd"] for row in rows if row["model"] == model)
        assert row["cost_usd"] == pytest.approx(batch_usd + live_usd)
        assert row["list_usd"] == pytest.approx(2 * batch_usd + live_usd)
        assert row["saved_usd"] == pytest.approx(batch_usd)
    assert {model: row["answers"] for model, row in by_model.items()} == dict(zip(MODELS, [15, 10, 10], strict=True))


def test_costs_of_a_job_are_those_of_its_status(spent):
    store, _, _ = spent
    by_job = {row["job_id"]: row for row in cp.costs(by="job", store=store).to_pylist()}
    told = {status.job_id: status for status in cp.list_jobs(store=store)}
    assert {job_id: row["cost_usd"] for job_id, row in by_job.items()} == pytest.approx(
        {job_id: status.cost_usd for job_id, status in told.items() if status.cost_usd}
    )
    assert [row["name"] for row in by_job.values()] == ["mixed", None]


@given(
    shares=st.lists(
        st.tuples(
            st.integers(0, 1),
            st.integers(0, 3),
            st.sampled_from(MODELS),
            st.integers(0, 10**9),
            st.none() | st.floats(0, 1e6),
        ),
        max_size=12,
    )
)
@settings(max_examples=25)
def test_the_sum_is_the_same_by_whatever_it_is_taken(spent, shares):
    store, mixed, _ = spent
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "store"
        copy.mkdir()
        with closing(sqlite3.connect(store / "ledger.sqlite")) as old:
            old.execute("VACUUM INTO ?", (str(copy / "ledger.sqlite"),))
        with closing(sqlite3.connect(copy / "ledger.sqlite")) as ledger, ledger:
            ledger.execute("DELETE FROM shard_models")
            ledger.execute("UPDATE shards SET input_tokens = 0, output_tokens = 0")
            ledger.executemany("INSERT INTO accounts VALUES (?, ?, 0)", [(10, "one"), (11, "other")])
            for number, (account, days, model, tokens, cost) in enumerate(shares, 100):
                ledger.execute(
                    "INSERT INTO shards (shard, account, job_id, state, attempt, requests, first_row, last_row,"
                    " collected_at) VALUES (?, ?, ?, 'collected', 1, 1, 0, 0, ?)",
                    (number, 10 + account, mixed.job_id, days * DAY),
                )
                usage = (number, model, 1, tokens, tokens, 0, 0, cost, cost and cost * 2)
                ledger.execute("INSERT INTO shard_models VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", usage)
        by_day, by_model, by_job = (figures(cp.costs(by=by, store=copy)) for by in ("day", "model", "job"))
    assert by_day == pytest.approx(by_model)
    assert by_day == pytest.approx(by_job)
    assert by_day["input_tokens"] == sum(tokens for *_, tokens, _ in shares)
    assert (by_day["cost_usd"] is None) == (None in [share[-1] for share in shares])


def test_an_older_store_is_summed_up_from_its_files_and_without_these_by_its_jobs_model(spent):
    store, mixed, _ = spent
    known = {by: cp.costs(by=by, store=store).to_pylist() for by in ("day", "model", "job")}
    change(store, "DELETE FROM shard_models")
    for by, rows in known.items():
        assert [pytest.approx(row) for row in rows] == cp.costs(by=by, store=store).to_pylist()
    files = {path: path.read_bytes() for path in (store / "results").glob("*.parquet")}
    change(store, "DELETE FROM shard_models")
    for path in files:
        path.unlink()
    assert figures(cp.costs(by="model", store=store)) == pytest.approx(figures(cp.costs(store=store)))
    assert set(cp.costs(by="model", store=store)["model"].to_pylist()) == {mixed.status().model, MODELS[0]}
    for path, content in files.items():
        path.write_bytes(content)
    change(store, "DELETE FROM shard_models")


def test_days_are_of_utc_and_both_the_first_and_the_last_count(spent):
    store, _, _ = spent
    today = datetime.now(UTC).date()
    assert cp.costs(store=store)["day"].to_pylist() == [today]
    assert cp.costs(store=store, since=today, until=str(today)).num_rows == 1
    assert cp.costs(store=store, since="2001-01-01", until=date(2001, 1, 31)).num_rows == 0


def test_a_day_or_a_key_that_is_none_is_named(spent):
    with pytest.raises(cp.InputError, match=r"since is '11/2026', which is no day\. Give one such as 2026-11-01"):
        cp.costs(since="11/2026", store=spent[0])
    with pytest.raises(cp.InputError, match=r"by is 'week'\. Give one of day, model, job"):
        cp.costs(by="week", store=spent[0])


def test_web_searches_have_no_discount():
    line = {"custom_id": "00", "result": {"type": "succeeded", "message": {"model": MODELS[0], "content": []}}}
    line["result"]["message"]["usage"] = {"server_tool_use": {"web_search_requests": 3}}
    known = {"result_type": "succeeded", "model": MODELS[0], "cost_usd": 0.5 + 0.03, "line": json.dumps(line).encode()}
    spending = Spending(PriceList(datetime.now(UTC)))
    spending.add(make_record_batch([[known.get(field.name) for field in RESULT_SCHEMA]], RESULT_SCHEMA))
    assert spending.models[MODELS[0]].list_usd == pytest.approx(2 * 0.5 + 0.03)


def test_the_shell_shows_costs_as_a_table_with_a_total_as_json_and_as_a_picture(spent, tmp_path):
    store, _, _ = spent
    shown = run("costs", "--by", "model", "--store", store, "--out", tmp_path / "costs.png")
    assert shown.exit_code == 0, shown.stderr
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert lines[0] == ["MODEL", "ANSWERS", "TOKENS", "IN", "TOKENS", "OUT", "COST", "LIST", "SAVED"]
    assert {line[0] for line in lines[1:-1]} == set(MODELS)
    assert lines[-1][:2] == ["total", "35"]
    assert "The sandbox costs nothing" in shown.stderr
    assert (tmp_path / "costs.png").read_bytes().startswith(b"\x89PNG")
    told = json.loads(run("costs", "--by", "job", "--store", store, "--json").stdout)
    assert [row["name"] for row in told] == ["mixed", None]
    day = json.loads(run("costs", "--store", store, "--json").stdout)
    assert [row["day"] for row in day] == [datetime.now(UTC).date().isoformat()]
    assert run("costs", "--store", store, "--until", "2001-01-01").stderr == "Nothing was answered then.\n"


def test_a_picture_that_cannot_be_drawn_is_refused_in_words(spent, tmp_path, monkeypatch):
    store, _, _ = spent
    assert "must be one of .png, .svg, .pdf" in run("costs", "--store", store, "--out", "costs.gif").stderr
    assert "There is no folder" in run("costs", "--store", store, "--out", tmp_path / "no" / "costs.png").stderr
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    refused = run("costs", "--store", store, "--out", tmp_path / "costs.png")
    assert 'Pictures need Matplotlib, which is not installed: pip install "claude-pipeline[plot]"' in refused.stderr
    assert refused.exit_code == 1


def test_a_store_that_is_none_has_cost_nothing(tmp_path):
    assert cp.costs(store=tmp_path / "none").num_rows == 0
    assert not (tmp_path / "none").exists()
