"""A create call that was refused: what follows is what the API said, and nothing is sent twice for it."""

import json
import sqlite3
from contextlib import closing

import pyarrow.parquet as pq
import pytest
import recovering
from meddler import Answer, Meddler
from recovering import ask, assert_all_answered, assert_nothing_paid_twice, prompts, shards_of

import claude_pipeline as cp
from claude_pipeline.store import Store

server, slow_server, folder, no_grace = (
    recovering.server,
    recovering.slow_server,
    recovering.folder,
    recovering.no_grace,
)


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
