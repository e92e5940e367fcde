"""Nothing lost, nothing paid twice: whatever the API answers, the next advance goes on from what is true."""

import json

import httpx2
import pytest
import recovering
from meddler import Answer, Meddler
from recovering import (
    HEADERS,
    LONG,
    PATH,
    ask,
    assert_all_answered,
    assert_nothing_paid_twice,
    delete,
    echo,
    shards_of,
)

import claude_pipeline as cp
from claude_pipeline import advancing
from claude_pipeline.store import Store

server, slow_server, folder = recovering.server, recovering.slow_server, recovering.folder


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


@pytest.mark.usefixtures("each_ledger")
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


def test_a_batch_that_the_api_lists_and_does_not_show_is_waited_for_in_words(server, folder):
    job = ask(server.url, folder)
    server.fail_next("retrieve", 404)
    status = job.advance()
    assert status.state == "in_progress"
    assert f"lists batch {status.batches[0].batch_id}, but does not show it just now. Trying again." in status.reason
    assert_all_answered(job.wait(poll_interval=0))


def test_a_time_without_a_zone_is_not_the_apis_and_changes_nothing(slow_server, folder):
    with Meddler(slow_server.url) as meddler:
        job = ask(meddler.url, folder)
        meddler.meddle = lambda _seen, true: Answer(200, true.body.replace(b'Z"', b'"').replace(b'+00:00"', b'"'))
        assert "is not the API's (Expected `datetime` with a timezone component" in job.advance().reason
        meddler.meddle = lambda _seen, _true: None
        slow_server.advance_clock(LONG)
        assert_all_answered(job.wait(poll_interval=0))


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


@pytest.mark.usefixtures("each_ledger")
def test_a_batch_that_is_gone_blocks_the_job_and_only_the_user_pays_again(server, folder, monkeypatch):
    job = ask(server.url, folder)
    batch_id = job.status().batches[0].batch_id
    delete(server, batch_id)
    assert job.advance().state == "in_progress"
    monkeypatch.setattr(advancing, "_PASSING_404_SECONDS", -10.0)
    assert_gone_until_resumed(job, batch_id)


def test_results_that_are_gone_block_the_job_as_well(server, folder, monkeypatch):
    job = ask(server.url, folder)
    cp.poll(store=folder, base_url=server.url)
    batch_id = job.status().batches[0].batch_id
    delete(server, batch_id)
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


# An account that must be mended


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


def test_every_error_of_one_step_is_told(server, folder):
    with Meddler(server.url) as meddler:
        job = ask(meddler.url, folder, max_batch_requests=3)
        refused = {batch.batch_id: f"No {number}." for number, batch in enumerate(job.status().batches)}

        def refuse(seen, _true):
            words = refused.get(seen.path.split("/")[-2]) if seen.path.endswith("/results") else None
            return words and Answer(403, json.dumps({"type": "error", "error": {"message": words}}).encode())

        meddler.meddle = refuse
        with pytest.raises(cp.ApiError, match=r"answered 403: No 0\. .*answered 403: No 1\.") as told:
            job.advance()
        assert told.value.status == 403


def test_trouble_with_the_batch_of_another_job_is_neither_told_nor_raised_for_this_one(slow_server, folder):
    with Meddler(slow_server.url) as meddler:
        mine, other = ask(meddler.url, folder), ask(meddler.url, folder, salt="other")
        hidden = other.status().batches[0].batch_id
        meddler.meddle = lambda seen, true: without(hidden, seen, true)
        assert mine.advance().reason is None
        with pytest.raises(cp.ApiError, match="answered 403"):
            other.advance()
        notes = {status.job_id: status.reason for status in cp.poll(store=folder, base_url=meddler.url)}
        assert notes[mine.job_id] is None
        assert "answered 403" in notes[other.job_id]


def without(batch_id, seen, true):
    """Leave a batch out of lists, and refuse to show it."""
    if seen.path.endswith(batch_id):
        return Answer(403, b"{}")
    if "?" not in seen.path:
        return None
    page = json.loads(true.body)
    page["data"] = [batch for batch in page["data"] if batch["id"] != batch_id]
    return Answer(200, json.dumps(page).encode(), true.headers)


@pytest.mark.usefixtures("each_ledger")
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


@pytest.mark.usefixtures("each_ledger")
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
