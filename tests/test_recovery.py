"""Nothing lost, nothing paid twice: whatever the API answers, the next advance goes on from what is true."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import httpx2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from meddler import Answer, Meddler

import claude_pipeline as cp
from claude_pipeline import advancing, sending
from claude_pipeline.batches import BatchesApi, make_client
from claude_pipeline.store import Store

PATH = "/v1/messages/batches"
HEADERS = {"authorization": "Bearer any", "anthropic-version": "2026-10-21"}
LONG = 10_000.0


def echo(params):
    return params["messages"][-1]["content"]


@pytest.fixture
def server() -> Iterator[cp.Sandbox]:
    with cp.Sandbox(answer=echo) as server:
        yield server


@pytest.fixture
def slow_server() -> Iterator[cp.Sandbox]:
    with cp.Sandbox(answer=echo, batch_seconds=LONG) as server:
        yield server


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def no_grace(monkeypatch):
    monkeypatch.setattr(sending, "GRACE_SECONDS", 0.0)


def prompts(count):
    return pa.table({"text": [f"Prompt {row}" for row in range(count)]})


def ask(url, folder, *, rows=6, **settings):
    asked = {"prompt_column": "text", "model": "claude-haiku-4-5", "max_tokens": 16} | settings
    return cp.submit(prompts(rows), store=folder, base_url=url, **asked)


def assert_all_answered(job):
    table = job.to_arrow()
    assert table["response"].to_pylist() == table["text"].to_pylist()
    assert job.status().unanswered == 0


def assert_nothing_paid_twice(server):
    usage = server.usage()
    assert usage["answers_billed_twice"] == 0
    assert usage["requests_accepted"] == usage["distinct_requests"]


def create_by_someone_else(server, *, requests):
    params = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi."}]}
    body = {"requests": [{"custom_id": f"theirs_{i}", "params": params} for i in range(requests)]}
    return httpx2.post(server.url + PATH, headers=HEADERS, json=body).json()["id"]


def shards_of(folder, job):
    return Store(folder).ledger.own_shards(job.job_id)


# A create call whose answer was lost


def test_a_batch_whose_create_was_answered_into_the_void_is_adopted(server, folder):
    server.fail_next("create", "drop_after")
    job = ask(server.url, folder)
    assert job.status().state == "in_progress"
    assert "answer to a create call was lost" in job.status().reason
    job.wait(poll_interval=0)
    assert_all_answered(job)
    assert server.usage()["batches"] == 1
    assert_nothing_paid_twice(server)


@pytest.mark.usefixtures("no_grace")
def test_a_batch_that_may_be_ours_is_waited_for_by_name_however_long_it_runs(slow_server, folder):
    slow_server.fail_next("create", "drop_after")
    job = ask(slow_server.url, folder)
    (ours,) = {request.batch_id for request in slow_server.requests()}
    assert ours in job.advance().reason
    assert ours in job.advance().reason
    slow_server.advance_clock(LONG)
    job.wait(poll_interval=0)
    assert_all_answered(job)
    assert_nothing_paid_twice(slow_server)


def test_a_create_that_never_arrived_is_not_repeated_within_the_grace(server, folder):
    server.fail_next("create", "drop_before")
    job = ask(server.url, folder)
    for _ in range(3):
        assert "answer to a create call was lost" in job.advance().reason
    assert server.usage()["batches"] == 0


@pytest.mark.usefixtures("no_grace")
def test_a_create_that_never_arrived_is_sent_again_after_the_grace(server, folder):
    server.fail_next("create", "drop_before")
    job = ask(server.url, folder)
    job.wait(poll_interval=0)
    assert_all_answered(job)
    assert_nothing_paid_twice(server)


@pytest.mark.parametrize("hours", [-30, 1])
def test_a_lost_batch_is_adopted_whatever_the_clock_of_this_host_says(server, folder, hours):
    server.set_clock(datetime.now(UTC) + timedelta(hours=hours))
    server.fail_next("create", "drop_after")
    job = ask(server.url, folder)
    job.wait(poll_interval=0)
    assert_all_answered(job)
    assert_nothing_paid_twice(server)


@pytest.mark.usefixtures("no_grace")
def test_a_stranger_of_the_same_size_is_not_adopted(server, folder):
    server.fail_next("create", "drop_before")
    job = ask(server.url, folder)
    theirs = create_by_someone_else(server, requests=6)
    job.wait(poll_interval=0)
    assert_all_answered(job)
    assert theirs not in {batch.batch_id for batch in job.status().batches}
    assert_nothing_paid_twice(server)


def test_of_several_lost_batches_each_shard_adopts_its_own(server, folder):
    server.fail_next("create", "drop_after", times=3)
    job = ask(server.url, folder, rows=9, max_batch_requests=3)
    job.wait(poll_interval=0)
    assert_all_answered(job)
    assert server.usage()["batches"] == 3
    assert_nothing_paid_twice(server)


def test_a_lost_batch_is_adopted_when_the_newest_batch_before_it_was_deleted(server, folder):
    earlier = create_by_someone_else(server, requests=2)
    server.fail_next("create", "drop_after")
    job = ask(server.url, folder)
    httpx2.get(f"{server.url}{PATH}/{earlier}", headers=HEADERS)
    assert httpx2.delete(f"{server.url}{PATH}/{earlier}", headers=HEADERS).status_code == 200
    job.wait(poll_interval=0)
    assert_all_answered(job)
    assert_nothing_paid_twice(server)


def test_the_store_of_a_killed_process_says_what_its_job_waits_for(server, folder):
    server.fail_next("create", "drop_before")
    job = ask(server.url, folder)
    (shard,) = shards_of(folder, job)
    Store(folder).ledger.move(shard.shard, ("submitting",), reason=None, owner="another-boot 1 1 x", lease_until=0)
    assert "create call" in job.advance().reason


def test_a_canceled_job_settles_its_lost_batch_and_cancels_it(slow_server, folder):
    slow_server.fail_next("create", "drop_after")
    job = ask(slow_server.url, folder)
    assert job.cancel().state == "canceling"
    slow_server.advance_clock(LONG)
    while job.advance().state != "ended":
        assert slow_server.usage()["batches"] == 1
    assert_nothing_paid_twice(slow_server)


@pytest.mark.usefixtures("no_grace")
def test_who_settles_from_an_old_look_leaves_a_new_upload_alone(server, folder):
    server.fail_next("create", "drop_before")
    job = ask(server.url, folder)
    ledger = Store(folder).ledger
    (old,) = shards_of(folder, job)
    ledger.move(old.shard, ("submitting",), state="planned")
    (planned,) = shards_of(folder, job)
    me = job._session.owner
    assert ledger.lease(planned, owner=me, to="uploading")
    ledger.move(old.shard, ("uploading",), state="submitting", submitting_at=ledger.now())
    sending.settle(Store(folder), BatchesApi(make_client(server.url)), old)
    (new,) = shards_of(folder, job)
    assert (new.state, new.owner) == ("submitting", me)


@pytest.mark.usefixtures("no_grace")
def test_a_lost_batch_whose_results_arrive_spoiled_is_not_taken_for_a_stranger(server, folder):
    server.fail_next("create", "drop_after")
    server.fail_next("results", "missing_line")
    job = ask(server.url, folder)
    assert "may be the one whose create call was lost" in job.advance().reason
    assert_all_answered(job.wait(poll_interval=0))
    assert_nothing_paid_twice(server)


@pytest.mark.usefixtures("no_grace")
def test_a_batch_of_another_store_that_shares_half_of_the_prompts_is_not_adopted(server, folder, tmp_path):
    server.fail_next("create", "drop_before")
    job = ask(server.url, folder, rows=6)
    half = pa.table({"text": [f"Prompt {row}" for row in range(3, 9)]})
    settings = {"prompt_column": "text", "model": "claude-haiku-4-5", "max_tokens": 16}
    theirs = cp.submit(half, store=tmp_path / "other", base_url=server.url, **settings)
    assert_all_answered(theirs.wait(poll_interval=0))
    assert_all_answered(job.wait(poll_interval=0))
    assert server.usage()["batches"] == 2


# A create call that was refused


@pytest.mark.parametrize("status", [400, 401, 402, 403])
def test_a_refusal_that_only_the_user_can_mend_blocks_the_job_until_resume(server, folder, status):
    server.fail_next("create", status)
    job = ask(server.url, folder)
    assert job.status().state == "blocked"
    assert f"The API answered {status}: The sandbox was asked to" in job.status().reason
    with pytest.raises(cp.JobBlockedError, match=f"The API answered {status}"):
        job.wait(poll_interval=0)
    assert server.usage()["batches"] == 0
    job.resume()
    job.wait(poll_interval=0)
    assert_all_answered(job)
    assert_nothing_paid_twice(server)


def test_a_spend_cap_blocks_though_it_looks_like_a_rate_limit(server, folder):
    cap = {"type": "rate_limit_error", "message": "Spent.", "details": {"error_code": "enforced_spend_limit_reached"}}
    refused = Answer(429, json.dumps({"type": "error", "error": cap}).encode())
    with Meddler(server.url, lambda seen, _: refused if seen.method == "POST" else None) as meddler:
        job = ask(meddler.url, folder)
        assert (job.status().state, job.status().reason) == ("blocked", "The API answered 429: Spent.")


def test_a_body_that_is_too_large_is_halved_until_it_fits(server, folder):
    server.fail_next("create", 413, times=3)
    job = ask(server.url, folder, rows=7)
    job.wait(poll_interval=0)
    assert_all_answered(job)
    assert max(batch.requests for batch in job.status().batches) < 7
    assert_nothing_paid_twice(server)


def test_a_single_request_that_is_too_large_blocks_its_job(server, folder):
    server.fail_next("create", 413)
    job = ask(server.url, folder, rows=1)
    assert job.status().state == "blocked"
    job.resume()
    assert_all_answered(job.wait(poll_interval=0))


def test_a_busy_api_is_asked_again_later_and_nobody_sleeps_on_it(server, folder):
    server.fail_next("create", 429, retry_after=3600)
    job = ask(server.url, folder)
    for _ in range(3):
        assert "Trying again in 3600 s" in job.advance().reason
    assert server.usage()["batches"] == 0
    job.resume()
    job.wait(poll_interval=0)
    assert_all_answered(job)
    assert_nothing_paid_twice(server)


def test_a_shard_refused_a_thousand_times_is_still_asked_again_later(server, folder):
    server.fail_next("create", 429)
    job = ask(server.url, folder, rows=1)
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as connection, connection:
        connection.execute("UPDATE shards SET refusals = 2000, not_before = 0")
    server.fail_next("create", 429, retry_after=0)
    assert "Trying again" in job.advance().reason
    assert_all_answered(job.wait(poll_interval=0))


def test_three_rate_limits_with_an_empty_queue_halve_the_shard(server, folder):
    server.fail_next("create", 429, times=3, retry_after=0)
    job = ask(server.url, folder)
    job.wait(poll_interval=0)
    assert_all_answered(job)
    assert [batch.requests for batch in job.status().batches] == [3, 3]
    assert_nothing_paid_twice(server)


def test_rate_limits_with_our_own_requests_in_the_queue_halve_nothing(slow_server, folder):
    ask(slow_server.url, folder, rows=2, salt="earlier")
    slow_server.fail_next("create", 429, times=4, retry_after=0)
    job = ask(slow_server.url, folder)
    for _ in range(4):
        job.advance()
    assert [shard.requests for shard in shards_of(folder, job)] == [6]


@pytest.mark.usefixtures("no_grace")
@pytest.mark.parametrize("status", [408, 500, 502, 504])
def test_a_server_error_after_the_whole_body_is_settled_before_it_is_repeated(server, folder, status):
    server.fail_next("create", status)
    job = ask(server.url, folder)
    assert "answer to a create call was lost" in job.status().reason
    job.wait(poll_interval=0)
    assert_all_answered(job)
    assert_nothing_paid_twice(server)


def test_a_batch_behind_an_unreadable_answer_is_adopted(server, folder):
    page = Answer(200, b"<html>Welcome to our proxy</html>", {"content-type": "text/html"})
    with Meddler(server.url, lambda seen, _: page if seen.method == "POST" else None) as meddler:
        job = ask(meddler.url, folder)
        assert_all_answered(job.wait(poll_interval=0))
    assert_nothing_paid_twice(server)


@pytest.mark.parametrize("changed", [prompts(5), prompts(6)[::-1]], ids=["shorter", "reordered"])
def test_an_input_that_was_changed_in_the_store_is_not_sent(server, folder, changed):
    server.fail_next("create", 400)
    job = ask(server.url, folder)
    pq.write_table(changed, Store(folder).input_path(job.job_id))
    with pytest.raises(cp.StoreError, match="was changed after it was planned"):
        job.resume()
    assert server.usage()["batches"] == 0


# Looking at batches


@pytest.mark.parametrize("page", [b"<html>Welcome</html>", b'{"data": [{"id": 7}]}'])
def test_a_list_that_is_none_changes_nothing_and_is_said(slow_server, folder, page):
    with Meddler(slow_server.url) as meddler:
        job = ask(meddler.url, folder)
        meddler.meddle = lambda _seen, _true: Answer(200, page)
        status = job.advance()
        assert status.state == "in_progress"
        assert "Trying again" in status.reason
        meddler.meddle = lambda _seen, _true: None
        slow_server.advance_clock(LONG)
        assert_all_answered(job.wait(poll_interval=0))


def test_an_api_that_cannot_be_reached_changes_nothing(slow_server, folder):
    job = ask(slow_server.url, folder)
    slow_server.fail_next("list", "drop_before")
    status = job.advance()
    assert status.state == "in_progress"
    assert "could not be reached" in status.reason
    assert job.advance().reason is None
    slow_server.advance_clock(LONG)
    assert_all_answered(job.wait(poll_interval=0))


def test_a_batch_that_someone_else_canceled_blocks_the_job_and_says_so(slow_server, folder):
    job = ask(slow_server.url, folder)
    (batch,) = job.status().batches
    httpx2.post(f"{slow_server.url}{PATH}/{batch.batch_id}/cancel", headers=HEADERS)
    while job.advance().state == "in_progress":
        assert slow_server.usage()["batches"] == 1
    assert job.status().state == "blocked"
    assert f"{batch.batch_id} was canceled, but not by this job" in job.status().reason
    job.resume()
    slow_server.advance_clock(LONG)
    assert_all_answered(job.wait(poll_interval=0))
    assert slow_server.usage()["answers_billed_twice"] == 0


def test_a_404_soon_after_the_create_is_passing(slow_server, folder):
    with Meddler(slow_server.url) as meddler:
        job = ask(meddler.url, folder)
        nothing = json.dumps({"data": [], "has_more": False}).encode()
        meddler.meddle = lambda seen, _: Answer(200, nothing) if "?" in seen.path else Answer(404, b"{}")
        before = shards_of(folder, job)
        assert job.advance().state == "in_progress"
        assert shards_of(folder, job) == before
        meddler.meddle = lambda _seen, _true: None
        slow_server.advance_clock(LONG)
        assert_all_answered(job.wait(poll_interval=0))
    assert_nothing_paid_twice(slow_server)


def delete(server, job):
    (batch,) = job.status().batches
    httpx2.get(f"{server.url}{PATH}/{batch.batch_id}", headers=HEADERS)
    assert httpx2.delete(f"{server.url}{PATH}/{batch.batch_id}", headers=HEADERS).status_code == 200
    return batch.batch_id


def assert_gone_until_resumed(job, batch_id):
    status = job.advance()
    assert status.state == "blocked"
    assert f"Batch {batch_id} is gone" in status.reason
    assert "pays for them again" in status.reason
    for row in job.to_arrow().to_pylist():
        assert (row["result_type"], row["error_type"], row["batch_id"]) == ("errored", "gone", batch_id)
        assert f"Batch {batch_id} is gone" in row["error_message"]
    job.resume()
    assert_all_answered(job.wait(poll_interval=0))


def test_a_batch_that_is_gone_blocks_the_job_and_only_the_user_pays_again(server, folder, monkeypatch):
    job = ask(server.url, folder)
    batch_id = delete(server, job)
    assert job.advance().state == "in_progress"
    monkeypatch.setattr(advancing, "_PASSING_404_SECONDS", -10.0)
    assert_gone_until_resumed(job, batch_id)


def test_results_that_are_gone_block_the_job_as_well(server, folder, monkeypatch):
    job = ask(server.url, folder)
    cp.poll(store=folder, base_url=server.url)
    batch_id = delete(server, job)
    assert job.advance().state == "in_progress"
    monkeypatch.setattr(advancing, "_PASSING_404_SECONDS", -10.0)
    assert_gone_until_resumed(job, batch_id)


def test_results_that_the_api_keeps_no_more_are_gone(slow_server, folder):
    job = ask(slow_server.url, folder)
    (batch,) = job.status().batches
    slow_server.advance_clock(30 * 24 * 3600)
    assert job.advance().state == "blocked"
    assert f"Batch {batch.batch_id} is gone" in job.status().reason
    job.resume()
    slow_server.advance_clock(LONG)
    assert_all_answered(job.wait(poll_interval=0))


# Results that do not agree with what was sent


@pytest.mark.parametrize("fault", ["missing_line", "duplicate_line", "garbage_line"])
def test_results_that_do_not_agree_are_fetched_again(server, folder, fault):
    server.fail_next("results", fault, times=2)
    job = ask(server.url, folder)
    assert_all_answered(job.wait(poll_interval=0))
    assert_nothing_paid_twice(server)


@pytest.mark.parametrize("fault", ["duplicate_line", "garbage_line"])
def test_results_that_never_agree_block_the_job_and_are_not_half_used(server, folder, fault):
    server.fail_next("results", fault, times=3)
    job = ask(server.url, folder)
    assert job.advance().state == "blocked"
    assert "do not agree with what was sent" in job.status().reason
    assert job.to_arrow()["result_type"].null_count == 6
    job.resume()
    assert_all_answered(job.wait(poll_interval=0))
    assert_nothing_paid_twice(server)


def test_results_that_break_off_are_not_half_used(server, folder):
    server.fail_next("results", "cut")
    job = ask(server.url, folder)
    status = job.advance()
    assert status.state == "in_progress"
    assert "broke off" in status.reason
    assert job.to_arrow()["result_type"].null_count == 6
    assert_all_answered(job.wait(poll_interval=0))
    assert_nothing_paid_twice(server)


def test_results_that_never_agree_block_a_job_that_cancels_and_cancel_fetches_them_again(slow_server, folder):
    job = ask(slow_server.url, folder)
    slow_server.fail_next("results", "garbage_line", times=3)
    job.cancel()
    with pytest.raises(cp.JobBlockedError, match="do not agree with what was sent"):
        job.wait(poll_interval=0)
    assert job.cancel().state == "ended"
    assert slow_server.usage()["batches"] == 1


def test_results_that_did_not_agree_are_not_fetched_again_before_resume(server, folder):
    with Meddler(server.url, miscount) as meddler:
        job = ask(meddler.url, folder)
        for _ in range(3):
            assert job.advance().state == "blocked"
        assert meddler.count("GET", "/results") == 3


# A line that the API never delivers


def test_a_row_whose_line_stays_away_is_asked_again_and_says_so(server, folder):
    server.fail_next("results", "missing_line", times=3)
    job = ask(server.url, folder).wait(poll_interval=0)
    assert_all_answered(job)
    rows = job.to_arrow().to_pylist()
    (again,) = [row for row in rows if row["attempts"] == 2]
    first = next(row["batch_id"] for row in rows if row is not again)
    assert again["result_type"] == "succeeded"
    assert again["error_message"] == f"Its line is missing from the results of {first}, where it may have been billed."
    assert [row["error_message"] for row in rows if row is not again] == [None] * 5
    assert server.usage()["requests_accepted"] == 7


def test_a_row_whose_line_always_stays_away_is_missing_and_the_job_ends(server, folder):
    server.fail_next("results", "missing_line", times=6)
    job = ask(server.url, folder, max_attempts=2).wait(poll_interval=0)
    (missing,) = [row for row in job.to_arrow().to_pylist() if row["result_type"] != "succeeded"]
    assert (missing["result_type"], missing["error_type"], missing["attempts"]) == ("errored", "missing", 2)
    assert missing["error_message"].count("msgbatch_") == 2
    assert (job.status().unanswered, job.status().counts) == (1, cp.RequestCounts(succeeded=5, errored=1))
    job.resume()
    assert_all_answered(job.wait(poll_interval=0))


def lacking(*numbers):
    """Leave out another line of the results at each fetch."""
    left = list(numbers)

    def meddle(seen, true):
        if not seen.path.endswith("/results") or not left:
            return None
        lines = true.body.splitlines(keepends=True)
        del lines[left.pop(0)]
        return Answer(true.status, b"".join(lines), true.headers)

    return meddle


def test_lines_that_stay_away_by_turns_are_not_missing(server, folder):
    with Meddler(server.url, lacking(0, 1, 2)) as meddler:
        job = ask(meddler.url, folder)
        assert job.advance().state == "blocked"
        job.resume()
        assert_all_answered(job.wait(poll_interval=0))
    assert_nothing_paid_twice(server)


def test_a_results_file_with_nothing_in_it_is_no_proof_that_every_line_is_missing(server, folder):
    empty = Answer(200, b"", {"content-type": "application/x-jsonl"})
    with Meddler(server.url, lambda seen, _: empty if seen.path.endswith("/results") else None) as meddler:
        job = ask(meddler.url, folder)
        assert job.advance().state == "blocked"
        meddler.meddle = lambda _seen, _true: None
        job.resume()
        assert_all_answered(job.wait(poll_interval=0))
    assert_nothing_paid_twice(server)


# Counts and lines


def miscount(_seen, true):
    return Answer(true.status, true.body.replace(b'"succeeded":6', b'"succeeded":5'), true.headers)


def test_counts_that_do_not_agree_with_the_lines_block_the_job_until_they_do(server, folder):
    with Meddler(server.url, miscount) as meddler:
        job = ask(meddler.url, folder)
        assert job.advance().state == "blocked"
        assert "it counts 5 succeeded" in job.status().reason
        meddler.meddle = lambda _seen, _true: None
        job.resume()
        assert_all_answered(job.wait(poll_interval=0))
    assert_nothing_paid_twice(server)


def strange(seen, true):
    if not seen.path.endswith("/results"):
        return None
    return Answer(200, true.body.replace(b'"type":"succeeded"', b'"type":"succeeded2"'), true.headers)


def test_a_line_that_is_no_result_blocks_the_job_until_it_is_one(server, folder):
    with Meddler(server.url, strange) as meddler:
        job = ask(meddler.url, folder)
        assert job.advance().state == "blocked"
        meddler.meddle = lambda _seen, _true: None
        job.resume()
        assert_all_answered(job.wait(poll_interval=0))
    assert_nothing_paid_twice(server)


def test_an_account_without_credit_blocks_the_job_and_costs_no_attempt(folder):
    poor = True

    def without_credit(_custom_id, params, _attempt):
        return "credit_too_low" if poor and echo(params) != "Prompt 0" else None

    with cp.Sandbox(answer=echo, rows=without_credit) as server:
        job = ask(server.url, folder, max_attempts=1)
        assert job.advance().state == "blocked"
        assert "credit balance is too low" in job.status().reason
        poor = False
        job.resume()
        assert_all_answered(job.wait(poll_interval=0))
        assert set(job.to_arrow()["attempts"].to_pylist()) == {1}
        assert server.usage()["answers_billed_twice"] == 0
        assert server.usage()["requests_accepted"] == 6 + 5


# Credentials go nowhere else


def elsewhere(url, key):
    def meddle(seen, true):
        if "/results" in seen.path:
            return None
        return Answer(true.status, true.body.replace(key.encode(), url.encode()), true.headers)

    return meddle


def test_results_at_another_origin_are_not_fetched_from_there(server, folder):
    with Meddler() as thief, Meddler(server.url) as meddler:
        meddler.meddle = elsewhere(f'"results_url":"{thief.url}', f'"results_url":"{meddler.url}')
        job = ask(meddler.url, folder)
        assert_all_answered(job.wait(poll_interval=0))
        assert thief.seen == []


def test_a_redirect_of_results_to_another_origin_carries_no_credentials(server, folder, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-very-distinct")
    with Meddler() as thief, Meddler(server.url) as meddler:
        moved = Answer(307, b"", {"location": f"{thief.url}/results"})
        meddler.meddle = lambda seen, _: moved if seen.path.endswith("/results") else None
        job = ask(meddler.url, folder)
        assert "Trying again" in job.advance().reason
        assert thief.seen
        assert "sk-very-distinct" not in str(thief.seen)


# One step of many


def test_an_error_for_one_batch_keeps_no_other_waiting_and_is_told(server, folder):
    with Meddler(server.url) as meddler:
        job = ask(meddler.url, folder, max_batch_requests=3)
        first = job.status().batches[0].batch_id
        forbidden = Answer(403, b"{}")
        meddler.meddle = lambda seen, _: forbidden if seen.path.endswith(f"{first}/results") else None
        with pytest.raises(cp.ApiError, match="answered 403"):
            job.advance()
        assert (job.status().state, job.status().counts.succeeded) == ("in_progress", 3)
        meddler.meddle = lambda _seen, _true: None
        assert_all_answered(job.wait(poll_interval=0))
    assert_nothing_paid_twice(server)


def test_a_cancel_that_comes_during_an_upload_keeps_it_from_becoming_a_batch(server, folder):
    with Meddler(server.url) as meddler:
        server.fail_next("create", 429, retry_after=0)
        job = ask(meddler.url, folder)

        def cancel(seen, _true):
            if seen.method == "GET":
                Store(folder).ledger.move_job(job.job_id, ("in_progress",), state="canceling")

        meddler.meddle = cancel
        job.advance()
        assert job.advance().state == "ended"
    assert server.usage()["batches"] == 0
    job = cp.open_job(job.job_id, store=folder, base_url=server.url)
    job.resume()
    assert_all_answered(job.wait(poll_interval=0))


def test_who_waits_does_not_look_at_what_another_has_just_looked_at(slow_server, folder):
    with Meddler(slow_server.url) as meddler:
        job = ask(meddler.url, folder)
        other = ask(meddler.url, folder, salt="other")
        job.advance()
        slow_server.advance_clock(LONG)
        meddler.seen.clear()
        other._advance(unless_polled_within=60)
        assert meddler.count("GET", "/batches") == 0
        job.advance()
        assert meddler.count("GET", "/batches") == 1
        other._advance(unless_polled_within=60)
        assert meddler.count("GET", "/batches") == 1
        assert_all_answered(other)
