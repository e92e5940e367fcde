"""Results that are not what was sent: fetched again, waited for, asked again; never half-used, never paid twice."""

import pytest
import recovering
from meddler import Answer, Meddler
from recovering import (
    SETTLED,
    ask,
    assert_all_answered,
    assert_blocks_until_healed,
    assert_nothing_paid_twice,
    shards_of,
)

import claude_pipeline as cp
from claude_pipeline.store import Store

server, slow_server, folder = recovering.server, recovering.slow_server, recovering.folder


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


# Lines that come late


def let_pauses_pass(folder, job):
    for shard in shards_of(folder, job):
        Store(folder).ledger.move(shard.shard, ("ended",), not_before=0.0)


@pytest.mark.parametrize("came", [0, 5], ids=["none came", "one is lacking"])
def test_lines_that_come_late_are_waited_for_and_not_asked_again(server, folder, came):
    with Meddler(server.url, lambda seen, true: first_lines(seen, true, came)) as meddler:
        job = ask(meddler.url, folder)
        status = job.advance()
        assert (status.state, status.is_due) == ("in_progress", False)
        assert f"{6 - came} missing. They may come late; looking again in 15 s." in status.reason
        server.advance_clock(500)
        let_pauses_pass(folder, job)
        assert job.advance().state == "in_progress"
        meddler.meddle = lambda _seen, _true: None
        let_pauses_pass(folder, job)
        assert_all_answered(job.wait(poll_interval=0))
    assert_nothing_paid_twice(server)


def first_lines(seen, true, count):
    if not seen.path.endswith("/results"):
        return None
    return Answer(true.status, b"".join(true.body.splitlines(keepends=True)[:count]), true.headers)


def test_results_that_may_come_late_are_not_fetched_at_every_look(server, folder):
    with Meddler(server.url, lambda seen, true: first_lines(seen, true, 5)) as meddler:
        job = ask(meddler.url, folder)
        for _ in range(4):
            job.advance()
        assert meddler.count("GET", "/results") == 3


def test_the_longer_lines_are_late_the_longer_is_the_pause(server, folder):
    server.fail_next("results", "missing_line", times=6)
    job = ask(server.url, folder)
    pauses = []
    for seconds in (100, 450):
        server.advance_clock(seconds)
        let_pauses_pass(folder, job)
        job.advance()
        (shard,) = shards_of(folder, job)
        pauses.append(shard.not_before - Store(folder).ledger.now())
    assert 0 < pauses[1] < pauses[0] < 500


# A line that the API never delivers


def test_a_row_whose_line_stays_away_is_asked_again_and_says_so(server, folder):
    server.fail_next("results", "missing_line", times=3)
    job = ask(server.url, folder)
    server.advance_clock(SETTLED)
    assert_all_answered(job.wait(poll_interval=0))
    rows = job.to_arrow().to_pylist()
    (again,) = [row for row in rows if row["attempts"] == 2]
    first = next(row["batch_id"] for row in rows if row is not again)
    assert again["result_type"] == "succeeded"
    assert again["error_message"] == f"Its line is missing from the results of {first}, where it may have been billed."
    assert [row["error_message"] for row in rows if row is not again] == [None] * 5
    assert server.usage()["requests_accepted"] == 7


def test_a_row_whose_line_always_stays_away_is_missing_and_the_job_ends(server, folder):
    server.fail_next("results", "missing_line", times=6)
    job = ask(server.url, folder, max_attempts=2)
    for _ in range(2):
        server.advance_clock(SETTLED)
        job.advance()
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
        server.advance_clock(SETTLED)
        assert job.advance().state == "blocked"
        job.resume()
        assert_all_answered(job.wait(poll_interval=0))
    assert_nothing_paid_twice(server)


def test_a_results_file_with_nothing_in_it_is_no_proof_that_every_line_is_missing(server, folder):
    empty = Answer(200, b"", {"content-type": "application/x-jsonl"})
    with Meddler(server.url, lambda seen, _: empty if seen.path.endswith("/results") else None) as meddler:
        job = ask(meddler.url, folder)
        server.advance_clock(SETTLED)
        assert_blocks_until_healed(job, meddler)
    assert_nothing_paid_twice(server)


# Counts and lines


def miscount(_seen, true):
    return Answer(true.status, true.body.replace(b'"succeeded":6', b'"succeeded":5'), true.headers)


def test_counts_that_do_not_agree_with_the_lines_block_the_job_until_they_do(server, folder):
    with Meddler(server.url, miscount) as meddler:
        job = ask(meddler.url, folder)
        assert_blocks_until_healed(job, meddler, because="it counts 5 succeeded")
    assert_nothing_paid_twice(server)


def strange(seen, true):
    if not seen.path.endswith("/results"):
        return None
    return Answer(200, true.body.replace(b'"type":"succeeded"', b'"type":"succeeded2"'), true.headers)


def test_a_line_that_is_no_result_blocks_the_job_until_it_is_one(server, folder):
    with Meddler(server.url, strange) as meddler:
        job = ask(meddler.url, folder)
        assert_blocks_until_healed(job, meddler)
    assert_nothing_paid_twice(server)
