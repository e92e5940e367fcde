"""Jobs from submit to the last answer, against a real sandbox and a real store."""

import json
import subprocess
import sys
from dataclasses import replace
from math import inf

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from anthropic import Anthropic
from conftest import submit_to
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import claude_pipeline as cp

COLUMNS = [
    "custom_id",
    "result_type",
    "response",
    "stop_reason",
    "model",
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cost_usd",
    "error_type",
    "error_message",
    "request_id",
    "batch_id",
    "attempts",
]
HOUR = 3600


def end(job):
    return job.wait(poll_interval=0)


def prompts_received(sandbox):
    return [json.loads(request.params)["messages"][0]["content"] for request in sandbox.requests()]


def batch_sizes(sandbox):
    sizes = {}
    for request in sandbox.requests():
        sizes[request.batch_id] = sizes.get(request.batch_id, 0) + 1
    return list(sizes.values())


def failing(*fates):
    """Let the n-th attempt of every request meet the n-th fate, and later ones succeed."""
    return lambda _custom_id, _params, attempt: fates[attempt - 1] if attempt <= len(fates) else None


@pytest.fixture
def slow(store):
    """Run a sandbox whose batches take an hour of its clock."""
    with cp.Sandbox(batch_seconds=HOUR) as sandbox, Anthropic(base_url=sandbox.url, api_key="x") as client:
        yield sandbox, lambda source, **options: submit_to(sandbox, source, store=store, client=client, **options)


@pytest.fixture
def failing_ask(store):
    """Submit to a sandbox where rows fail."""

    def submit(source, *fates, **options):
        with cp.Sandbox(rows=failing(*fates)) as sandbox:
            job = end(submit_to(sandbox, source, store=store, **options))
        return job, sandbox

    return submit


# Rows and columns


@pytest.mark.usefixtures("each_ledger")
def test_every_row_comes_back_in_order_with_the_columns_of_the_design(ask):
    joined = end(ask(pa.table({"id": [3, 1, 2], "text": ["c", None, "b"]}))).to_arrow()
    assert joined.column_names == ["id", "text", *COLUMNS]
    assert joined.select(["id", "text", "response"]).to_pydict() == {
        "id": [3, 1, 2],
        "text": ["c", None, "b"],
        "response": ["c", None, "b"],
    }


def test_an_answered_row_says_what_it_came_to(ask, sandbox):
    (row,) = end(ask(["Hello there. And more."])).to_arrow().to_pylist()
    (request,) = sandbox.requests()
    assert row == {
        "text": "Hello there. And more.",
        "custom_id": request.custom_id,
        "result_type": "succeeded",
        "response": "Hello there.",
        "stop_reason": "end_turn",
        "model": "claude-haiku-4-5",
        "input_tokens": 5,
        "output_tokens": 3,
        "cache_read_input_tokens": 0,
        "cache_creation_input_tokens": 0,
        "cost_usd": pytest.approx((5 * 1 + 3 * 5) / 1e6 / 2),
        "error_type": None,
        "error_message": None,
        "request_id": None,
        "batch_id": request.batch_id,
        "attempts": 1,
    }


def test_a_truncated_answer_is_an_answer_whose_stop_reason_says_so(ask):
    job = end(ask(["word " * 100], max_tokens=2))
    assert job.to_arrow()["stop_reason"].to_pylist() == ["max_tokens"]
    assert job.status().unanswered == 0


def test_a_prefix_stands_before_the_names_that_are_added(ask):
    joined = end(ask(pa.table({"text": ["x"], "response": ["mine"]}), prefix="claude_")).to_arrow()
    assert joined.column_names == ["text", "response", *(f"claude_{name}" for name in COLUMNS)]


def test_the_index_and_the_types_of_a_dataframe_come_back(ask):
    frame = pd.DataFrame(
        {
            "text": ["a", "b", "c"],
            "kind": pd.Categorical(["x", "y", "x"]),
            "when": pd.to_datetime(["2026-01-01", None, "2026-01-03"]).as_unit("ns"),
            "count": pd.array([1, None, 3], dtype="Int64"),
        },
        index=pd.Index(["i", "j", "k"], name="key"),
    )
    back = end(ask(frame)).to_pandas()
    pd.testing.assert_frame_equal(back[frame.columns], frame)
    assert back["response"].tolist() == ["a", "b", "c"]


def test_a_range_as_index_comes_back_cut_to_the_limit(ask):
    frame = pd.DataFrame({"text": list("abcd")}, index=pd.RangeIndex(10, 18, 2))
    pd.testing.assert_frame_equal(end(ask(frame)).to_pandas()[["text"]], frame)
    pd.testing.assert_frame_equal(end(ask(frame, limit=2)).to_pandas()[["text"]], frame.head(2))


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=20))
def test_any_text_in_any_cell_reaches_the_server_byte_for_byte(ask, sandbox, texts):
    job = ask(texts, system="".join(texts))
    sent = {text for text in texts if text and not text.isspace()}
    joined = end(job).to_arrow().to_pylist()
    received = {request.custom_id: json.loads(request.params) for request in sandbox.requests()}
    asked = {row["text"]: received[row["custom_id"]] for row in joined if row["custom_id"]}
    assert asked.keys() == sent
    for text, params in asked.items():
        assert params["messages"] == [{"role": "user", "content": text}]
        assert params["system"] == "".join(texts)


@pytest.mark.parametrize(
    "text", ["\x00", "\x00\x01\x1f\x7f", "👩‍👩‍👧‍👦🏳️‍🌈", "\U0010ffff", "é" * 500_000, "x" * 1_000_000]
)
def test_wild_text_travels_as_it_is(ask, sandbox, text):
    assert end(ask([text])).status().unanswered == 0
    assert prompts_received(sandbox) == [text]


def test_model_system_and_params_reach_the_server(ask, sandbox):
    ask(["x"], model="claude-opus-5-5", max_tokens=9, system="Brief.", params={"metadata": {"user_id": "u"}})
    assert [json.loads(request.params) for request in sandbox.requests()] == [
        {
            "model": "claude-opus-5-5",
            "max_tokens": 9,
            "system": "Brief.",
            "metadata": {"user_id": "u"},
            "messages": [{"role": "user", "content": "x"}],
        }
    ]


def test_a_template_file_is_a_template_without_its_last_newline(ask, sandbox, tmp_path):
    file = tmp_path / "template.txt"
    file.write_bytes("\ufeffSay \N{BLACK HEART SUIT}:\n{text}\n\n".encode())
    ask(["x"], template_file=file)
    assert prompts_received(sandbox) == ["Say \N{BLACK HEART SUIT}:\nx\n"]


def test_a_limit_asks_the_first_rows_only(ask, sandbox):
    assert end(ask(["a", "b", "c"], limit=2)).to_arrow()["text"].to_pylist() == ["a", "b"]
    assert prompts_received(sandbox) == ["a", "b"]


def test_files_of_a_glob_and_of_a_list_are_one_table(ask, tmp_path):
    for name in ("b", "a"):
        pa.csv.write_csv(pa.table({"text": [f"{name}1", f"{name}2"]}), tmp_path / f"{name}.csv")
    assert end(ask(str(tmp_path / "*.csv"))).to_arrow()["response"].to_pylist() == ["a1", "a2", "b1", "b2"]
    listed = end(ask([str(tmp_path / "b.csv"), str(tmp_path / "a.csv")]))
    assert listed.to_arrow()["response"].to_pylist() == ["b1", "b2", "a1", "a2"]


def test_an_input_that_is_edited_later_changes_nothing(ask, tmp_path):
    file = tmp_path / "table.parquet"
    pq.write_table(pa.table({"text": ["a", "b"]}), file)
    job = ask(file)
    pq.write_table(pa.table({"text": ["z", "y", "x"]}), file)
    assert end(job).to_arrow().select(["text", "response"]).to_pydict() == {"text": ["a", "b"], "response": ["a", "b"]}


# What is asked, and what is not


def test_blank_prompts_are_kept_and_not_sent(ask, sandbox):
    job = end(ask([None, "", " \n", "x"]))
    assert prompts_received(sandbox) == ["x"]
    assert job.to_arrow()["error_type"].to_pylist() == [*["missing_prompt"] * 3, None]
    assert job.to_arrow()["result_type"].to_pylist() == [None, None, None, "succeeded"]
    assert (job.status().skipped, job.status().unanswered) == (3, 0)


def test_a_table_of_blanks_ends_without_a_batch(ask, sandbox):
    assert end(ask([None, ""])).status().skipped == 2
    assert list(sandbox.requests()) == []


@pytest.mark.usefixtures("each_ledger")
def test_duplicates_are_asked_once_and_paid_once(ask, sandbox):
    job = end(ask(["a", "b", "a", "a"], max_batch_requests=1))
    assert prompts_received(sandbox) == ["a", "b"]
    rows = job.to_arrow().to_pylist()
    assert [row["response"] for row in rows] == ["a", "b", "a", "a"]
    assert [bool(row["cost_usd"]) for row in rows] == [True, True, False, False]
    assert job.status().duplicates == 2


def test_the_same_submit_is_the_same_job_while_it_runs(slow):
    sandbox, ask = slow
    first, second = ask(["a", "b"]), ask(["a", "b"])
    assert first.job_id == second.job_id
    assert sandbox.usage()["batches"] == 1


@pytest.mark.usefixtures("each_ledger")
def test_the_same_submit_is_the_same_job_when_it_has_ended(ask, sandbox):
    first = end(ask(["a", "b"]))
    second = ask(["a", "b"])
    assert second.status() == first.status()
    assert sandbox.usage()["batches"] == 1


@pytest.mark.parametrize(
    "change",
    [{"model": "claude-opus-5-5"}, {"max_tokens": 65}, {"system": "s"}, {"salt": "s"}, {"name": "n"}, {"prefix": "p_"}],
)
def test_another_submit_is_another_job(slow, change):
    _, ask = slow
    assert ask(["a"]).job_id != ask(["a"], **change).job_id


@pytest.mark.parametrize("change", [{"max_batch_requests": 1}, {"max_attempts": 1}, {"max_queued_requests": 5}])
def test_how_a_job_goes_out_does_not_change_which_job_it_is(slow, change):
    _, ask = slow
    assert ask(["a"]).job_id == ask(["a"], **change).job_id


def test_a_submit_with_one_new_row_asks_that_row(ask, sandbox):
    texts = [f"row {number}" for number in range(100)]
    end(ask(texts))
    job = end(ask([*texts[:50], "new", *texts[51:]]))
    assert prompts_received(sandbox)[100:] == ["new"]
    assert (job.status().reused, job.status().requests) == (99, 1)
    assert job.to_arrow()["response"].to_pylist() == [*texts[:50], "new", *texts[51:]]


def test_a_salt_asks_afresh(ask, sandbox):
    for salt in (None, "1", "2", "1"):
        end(ask(["a"], salt=salt))
    assert prompts_received(sandbox) == ["a"] * 3


@pytest.mark.usefixtures("each_ledger")
def test_a_second_job_waits_for_the_batch_of_the_first_and_pays_nothing(slow):
    sandbox, ask = slow
    first, second = ask(["a", "b", "c"]), ask(["c", "a"])
    assert sandbox.usage()["batches"] == 1
    assert second.status().state == "in_progress"
    sandbox.advance_clock(HOUR)
    assert end(second).to_arrow().select(["response", "cost_usd"]).to_pydict() == {
        "response": ["c", "a"],
        "cost_usd": [0.0, 0.0],
    }
    assert all(end(first).to_arrow()["cost_usd"].to_pylist())
    assert second.status().cost_usd == 0


@pytest.mark.usefixtures("each_ledger")
def test_what_failed_for_one_job_is_asked_afresh_by_the_next(store):
    with cp.Sandbox(rows=failing("invalid_request_error")) as sandbox:
        first = end(submit_to(sandbox, ["a"], store=store))
        second = end(submit_to(sandbox, ["a", "b"], store=store, max_attempts=1))
        assert first.to_arrow()["result_type"].to_pylist() == ["errored"]
        assert second.to_arrow()["result_type"].to_pylist() == ["succeeded", "errored"]


# Shards and waves


def test_shards_hold_at_most_max_batch_requests(ask, sandbox):
    job = end(ask([f"row {number}" for number in range(10)], max_batch_requests=4))
    assert batch_sizes(sandbox) == [4, 4, 2]
    assert len(job.status().batches) == 3
    assert len(set(job.to_arrow()["batch_id"].to_pylist())) == 3


def test_shards_hold_at_most_max_batch_bytes(ask, sandbox):
    job = end(ask([f"{number}" + "." * 1_000 for number in range(10)], max_batch_bytes=4_000))
    assert batch_sizes(sandbox) == [3, 3, 3, 1]
    assert job.status().unanswered == 0


def test_a_request_larger_than_a_batch_is_marked_and_the_others_go(ask, sandbox):
    job = end(ask(["a", "." * 5_000, "b"], max_batch_bytes=4_000))
    assert prompts_received(sandbox) == ["a", "b"]
    assert job.to_arrow()["error_type"].to_pylist() == [None, "request_too_large", None]
    assert "4,000" in job.to_arrow()["error_message"][1].as_py()
    assert (job.status().invalid, job.status().unanswered) == (1, 1)


@pytest.mark.usefixtures("each_ledger")
def test_batches_go_out_in_waves_under_max_queued_requests(store):
    with cp.Sandbox(batch_seconds=60, max_queued_requests=5) as sandbox:
        texts = [f"row {number}" for number in range(12)]
        job = submit_to(sandbox, texts, store=store, max_batch_requests=2, max_queued_requests=5)
        sent = []
        while job.advance().state != "ended":
            sent.append(sandbox.usage()["requests_accepted"])
            sandbox.advance_clock(61)
        assert sent == [4, 8, 12]


def test_a_wave_in_waiting_says_what_it_waits_for(slow):
    _, ask = slow
    job = ask(["a", "b", "c"], max_batch_requests=1, max_queued_requests=1)
    assert job.status().reason == "2 of 3 batches wait for room in the queue."


def test_a_batch_is_never_larger_than_the_queue(ask, sandbox):
    end(ask(["a", "b", "c"], max_queued_requests=2))
    assert batch_sizes(sandbox) == [2, 1]


# Rows that fail


@pytest.mark.parametrize("fate", ["api_error", "overloaded_error", "rate_limit_error", "timeout_error", "new_error"])
def test_a_row_that_may_pass_is_asked_again_in_a_further_batch(failing_ask, fate):
    job, sandbox = failing_ask(["a", "b"], fate)
    assert job.to_arrow().select(["result_type", "attempts"]).to_pydict() == {
        "result_type": ["succeeded"] * 2,
        "attempts": [2, 2],
    }
    assert sandbox.usage()["batches"] == 2


def test_an_expired_row_is_asked_again(failing_ask):
    job, _ = failing_ask(["a"], "expired", "expired")
    assert job.to_arrow().select(["result_type", "attempts"]).to_pylist() == [
        {"result_type": "succeeded", "attempts": 3}
    ]


def test_a_batch_that_expires_as_a_whole_is_asked_again(store):
    with cp.Sandbox(batch_seconds=inf) as sandbox:
        job = submit_to(sandbox, ["a", "b"], store=store, max_attempts=2)
        sandbox.advance_clock(25 * HOUR)
        assert job.advance().state == "in_progress"
        sandbox.advance_clock(25 * HOUR)
        assert end(job).to_arrow()["result_type"].to_pylist() == ["expired"] * 2
        assert job.status().unanswered == 2


@pytest.mark.parametrize(("fate", "error_type"), [("api_error", "api_error"), ("expired", None)])
def test_a_row_is_asked_at_most_max_attempts_times(failing_ask, fate, error_type):
    job, sandbox = failing_ask(["a"], *[fate] * 5, max_attempts=2)
    (row,) = job.to_arrow().select(["error_type", "attempts", "cost_usd"]).to_pylist()
    assert row == {"error_type": error_type, "attempts": 2, "cost_usd": 0.0}
    assert sandbox.usage()["requests_accepted"] == 2
    assert job.status().unanswered == 1


@pytest.mark.parametrize("fate", ["invalid_request_error", "not_found_error", "request_too_large"])
def test_a_row_that_would_fail_again_is_not_asked_again(failing_ask, fate):
    job, sandbox = failing_ask(["a"], fate)
    (row,) = job.to_arrow().to_pylist()
    assert (row["result_type"], row["error_type"], row["attempts"]) == ("errored", fate, 1)
    assert row["error_message"]
    assert row["request_id"].startswith("req_")
    assert sandbox.usage()["requests_accepted"] == 1


@pytest.mark.parametrize("fate", ["credit_too_low", "authentication_error", "permission_error", "billing_error"])
def test_an_account_that_must_be_mended_blocks_the_job_and_costs_no_attempt(store, fate):
    with cp.Sandbox(rows=failing(fate)) as sandbox:
        job = submit_to(sandbox, ["a"], store=store, max_attempts=1)
        with pytest.raises(cp.JobBlockedError, match=f"{job.job_id} is blocked: .*resume"):
            end(job)
        job.resume()
        (row,) = end(job).to_arrow().to_pylist()
    assert (row["result_type"], row["attempts"]) == ("succeeded", 1)


@pytest.mark.usefixtures("each_ledger")
def test_resume_asks_again_what_has_no_answer_with_fresh_attempts(store):
    with cp.Sandbox(rows=failing("api_error", "api_error")) as sandbox:
        job = end(submit_to(sandbox, ["a"], store=store, max_attempts=2))
        assert job.status().unanswered == 1
        job.resume()
        assert end(job).to_arrow()["result_type"].to_pylist() == ["succeeded"]
        assert job.status().unanswered == 0
        assert job.status().counts == cp.RequestCounts(succeeded=1)


def test_resume_of_a_job_that_is_answered_changes_nothing(ask, sandbox):
    job = end(ask(["a"]))
    before = job.status()
    assert job.resume() == before
    assert sandbox.usage()["batches"] == 1


@pytest.mark.parametrize("fault", ["duplicate_line", "garbage_line"])
def test_results_that_do_not_agree_with_what_was_sent_are_never_a_success(ask, sandbox, fault):
    job = ask(["a", "b", "c"])
    sandbox.fail_next("results", fault, times=3)
    with pytest.raises(cp.JobBlockedError, match="do not agree with what was sent"):
        end(job)
    assert job.to_arrow()["result_type"].null_count == 3
    job.resume()
    assert end(job).to_arrow()["response"].to_pylist() == ["a", "b", "c"]
    assert sandbox.usage()["batches"] == 1


@pytest.mark.parametrize("fault", ["missing_line", "duplicate_line", "garbage_line", "cut"])
def test_results_that_arrive_whole_at_the_second_try_are_taken(ask, sandbox, fault):
    job = ask(["a", "b", "c"])
    sandbox.fail_next("results", fault)
    assert end(job).to_arrow()["response"].to_pylist() == ["a", "b", "c"]


# Cancel and resume


def test_cancel_ends_a_running_batch_and_resume_asks_again(slow):
    sandbox, ask = slow
    job = ask(["a", "b"])
    assert job.cancel().state == "canceling"
    end(job)
    assert job.to_arrow()["result_type"].to_pylist() == ["canceled"] * 2
    assert (job.status().unanswered, job.status().counts.canceled) == (2, 2)
    job.resume()
    sandbox.advance_clock(HOUR)
    assert end(job).to_arrow()["response"].to_pylist() == ["a", "b"]
    assert job.status().counts == cp.RequestCounts(succeeded=2)


@pytest.mark.usefixtures("each_ledger")
def test_cancel_drops_what_was_not_sent_yet(slow):
    sandbox, ask = slow
    job = ask(["a", "b"], max_batch_requests=1, max_queued_requests=1)
    job.cancel()
    end(job)
    assert job.to_arrow()["result_type"].to_pylist() == ["canceled", None]
    assert job.to_arrow()["custom_id"].null_count == 0
    assert (job.status().counts, job.status().unanswered) == (cp.RequestCounts(canceled=2), 2)
    assert sandbox.usage()["batches"] == 1
    job.resume()
    while job.advance().state != "ended":
        sandbox.advance_clock(HOUR)
    assert job.to_arrow()["response"].to_pylist() == ["a", "b"]


@pytest.mark.usefixtures("each_ledger")
def test_cancel_leaves_what_another_job_waits_for(slow):
    sandbox, ask = slow
    first, second = ask(["a", "b"], max_batch_requests=1, max_queued_requests=1), ask(["b", "a"])
    assert first.cancel().state == "ended"
    while second.advance().state != "ended":
        sandbox.advance_clock(HOUR)
    assert second.to_arrow()["response"].to_pylist() == ["b", "a"]
    assert second.status().unanswered == 0
    assert sandbox.usage()["batches"] == 2


def test_cancel_of_a_job_that_has_ended_changes_nothing(ask):
    job = end(ask(["a"]))
    before = job.status()
    assert job.cancel() == before


@pytest.mark.usefixtures("each_ledger")
def test_a_job_that_comes_to_wait_for_a_batch_that_is_being_canceled_gets_its_answers(slow):
    sandbox, ask = slow
    ask(["a", "b"]).cancel()
    second = ask(["b", "c"])
    while second.advance().state not in {"ended", "blocked"}:
        sandbox.advance_clock(HOUR)
    assert second.to_arrow()["response"].to_pylist() == ["b", "c"]


def test_a_batch_that_somebody_else_canceled_blocks_the_job(slow):
    sandbox, ask = slow
    job = ask(["a", "b"])
    with Anthropic(base_url=sandbox.url, api_key="x") as client:
        client.messages.batches.cancel(job.status().batches[0].batch_id)
    with pytest.raises(cp.JobBlockedError, match=r"was canceled, but not by this job. `resume`"):
        end(job)
    job.resume()
    sandbox.advance_clock(HOUR)
    assert end(job).to_arrow()["response"].to_pylist() == ["a", "b"]


# Opening, listing, advancing, waiting


def test_a_job_may_be_opened_and_finished_elsewhere(slow, store):
    sandbox, ask = slow
    job = ask(["a"])
    sandbox.advance_clock(HOUR)
    opened = end(cp.open_job(job.job_id, store=store, base_url=sandbox.url))
    assert opened.to_arrow().equals(job.to_arrow())


def test_an_opened_job_remembers_where_it_was_sent(sandbox, store):
    job = cp.submit(
        pa.table({"text": ["a"]}),
        prompt_column="text",
        model="claude-haiku-4-5",
        max_tokens=9,
        base_url=sandbox.url,
        store=store,
    )
    assert end(cp.open_job(job.job_id, store=store)).status().unanswered == 0


def test_reading_a_job_needs_no_server(store):
    with cp.Sandbox() as sandbox:
        job_id = end(submit_to(sandbox, ["a"], store=store)).job_id
    job = cp.open_job(job_id, store=store)
    assert job.to_arrow()["response"].to_pylist() == ["a"]
    assert job.status().state == "ended"


def test_jobs_are_listed_oldest_first(slow, store):
    _, ask = slow
    jobs = [ask(["a"], name="first"), ask(["b"], name="second")]
    assert cp.list_jobs(store=store) == [job.status() for job in jobs]


def test_a_folder_without_a_store_has_no_jobs_and_gets_none(tmp_path):
    nowhere = tmp_path / "nowhere"
    assert cp.list_jobs(store=nowhere) == cp.advance(store=nowhere) == cp.poll(store=nowhere) == []
    assert not nowhere.exists()


@pytest.mark.usefixtures("each_ledger")
def test_advance_moves_every_open_job_of_a_store(slow, store):
    sandbox, ask = slow
    jobs = [ask(["a"]), ask(["b"])]
    sandbox.advance_clock(HOUR)
    assert [status.state for status in cp.advance(store=store, base_url=sandbox.url)] == ["ended", "ended"]
    assert [job.status().unanswered for job in jobs] == [0, 0]
    assert cp.advance(store=store, base_url=sandbox.url) == []


def test_advance_passes_over_a_server_that_is_gone(slow, store):
    sandbox, _ = slow
    with cp.Sandbox(batch_seconds=HOUR, workspace="wrkspc_gone") as gone:
        options = {"prompt_column": "text", "model": "claude-haiku-4-5", "max_tokens": 9, "store": store}
        lost = cp.submit(pa.table({"text": ["x"]}), base_url=gone.url, **options)
    job = cp.submit(pa.table({"text": ["y"]}), base_url=sandbox.url, **options)
    sandbox.advance_clock(HOUR)
    statuses = {status.job_id: status for status in cp.advance(store=store)}
    assert statuses[job.job_id].state == "ended"
    assert statuses[lost.job_id].state == "in_progress"
    assert "could not be reached" in statuses[lost.job_id].reason


def test_poll_sees_that_batches_ended_and_transfers_nothing(slow, store):
    sandbox, ask = slow
    job = ask(["a"])
    sandbox.advance_clock(HOUR)
    (status,) = cp.poll(store=store, base_url=sandbox.url)
    assert (status.state, status.batches[0].processing_status) == ("in_progress", "ended")
    assert job.to_arrow()["result_type"].null_count == 1


def test_wait_gives_up_in_time_and_the_batches_run_on(slow):
    sandbox, ask = slow
    job = ask(["a"])
    with pytest.raises(cp.WaitTimeoutError, match=f"{job.job_id} has not ended after 0.05 seconds; its batches run on"):
        job.wait(timeout=0.05, poll_interval=0.01)
    sandbox.advance_clock(HOUR)
    assert end(job).status().unanswered == 0


def test_wait_tells_how_the_job_stands(ask):
    seen = []
    ask(["a"]).wait(poll_interval=0, on_status=seen.append)
    assert seen[-1].state == "ended"


def test_a_wait_looks_soon_at_a_batch_that_was_just_sent(slow):
    sandbox, ask = slow
    seen = []

    def look(status):
        seen.append(status.state)
        if len(seen) == 2:
            sandbox.advance_clock(HOUR)

    ask(["a"]).wait(timeout=60, poll_interval=60, on_status=look)
    assert seen == ["in_progress", "in_progress", "ended"]


def test_an_api_that_is_down_for_a_moment_is_told_and_changes_nothing(slow):
    sandbox, ask = slow
    job = ask(["a"])
    sandbox.fail_next("list", 500)
    status = job.advance()
    assert (status.state, "500" in status.reason) == ("in_progress", True)
    assert job.advance().reason is None


def test_a_create_that_is_refused_for_good_blocks_the_job_with_the_words_of_the_api(ask, sandbox):
    sandbox.fail_next("create", 403)
    job = ask(["a"])
    assert (job.status().state, "403" in job.status().reason) == ("blocked", True)
    job.resume()
    assert end(job).status().unanswered == 0


@pytest.mark.usefixtures("each_ledger")
def test_a_body_that_is_too_large_is_halved(ask, sandbox):
    sandbox.fail_next("create", 413)
    assert end(ask(["a", "b", "c"])).to_arrow()["response"].to_pylist() == ["a", "b", "c"]
    assert batch_sizes(sandbox) == [1, 2]


def test_a_job_shows_itself_in_one_line(ask):
    job = end(ask(["a"]))
    assert repr(job).startswith(f"<Job {job.job_id} ended")


# Accounts


@pytest.fixture
def theirs():
    with cp.Sandbox(workspace="wrkspc_theirs") as sandbox:
        yield sandbox


@pytest.mark.usefixtures("each_ledger")
def test_another_account_neither_reuses_nor_touches_what_is_not_its_own(slow, store, theirs):
    sandbox, ask = slow
    job = ask(["a"])
    before = job.status()
    other = end(submit_to(theirs, ["a"], store=store))
    assert other.job_id != job.job_id
    assert (other.status().requests, other.status().reused) == (1, 0)
    cp.advance(store=store, base_url=theirs.url)
    assert replace(job.status(), reason=None) == replace(before, reason=None)
    assert (sandbox.usage()["batches"], theirs.usage()["batches"]) == (1, 1)


@pytest.mark.parametrize("verb", ["advance", "wait", "cancel", "resume"])
def test_a_job_of_another_account_says_whose_it_is(slow, store, theirs, verb):
    _, ask = slow
    job = ask(["a"])
    before = job.status()
    opened = cp.open_job(job.job_id, store=store, base_url=theirs.url)
    with pytest.raises(cp.AccountError, match=r"belongs to account 'sandbox', .* acts for 'wrkspc_theirs'\. Use"):
        getattr(opened, verb)()
    assert job.status() == before


def test_another_key_of_the_same_workspace_goes_on(slow, store):
    sandbox, ask = slow
    job = ask(["a"])
    sandbox.advance_clock(HOUR)
    with Anthropic(base_url=sandbox.url, api_key="another") as client:
        assert end(cp.open_job(job.job_id, store=store, client=client)).status().unanswered == 0


# A job whose planning was cut off


SUBMIT = """
import resource, sys
import claude_pipeline as cp

source, store, base_url, largest_file = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(largest_file), int(largest_file)))
try:
    cp.submit(source, prompt_column="text", model="claude-haiku-4-5", max_tokens=64, store=store, base_url=base_url,
              max_batch_requests=2_000)
except cp.StoreError as error:
    print(error)
"""


@pytest.mark.parametrize("largest_file", [1_000, 300_000])
def test_a_disk_that_was_full_leaves_a_store_where_the_same_submit_goes_on(ask, sandbox, store, tmp_path, largest_file):
    texts = [f"row {number}" for number in range(10_000)]
    file = tmp_path / "table.csv"
    pa.csv.write_csv(pa.table({"text": texts}), file)
    words = [sys.executable, "-W", "error", "-c", SUBMIT, file, store, sandbox.url, str(largest_file)]
    cut_off = subprocess.run(words, capture_output=True, text=True, check=False)
    assert cut_off.stderr == ""
    assert "run the same command again" in cut_off.stdout
    job = end(ask(file, max_batch_requests=2_000))
    assert (job.status().state, job.status().unanswered, job.status().requests) == ("ended", 0, 10_000)
    assert len(cp.list_jobs(store=store)) == 1
    assert sandbox.usage()["requests_accepted"] == 10_000
    assert job.to_arrow()["response"].to_pylist() == texts
