"""A check-up finds what is wrong with a store, names it, and repairs what costs and loses nothing."""

import json
import os
import time

import pytest
import recovering
from click.testing import CliRunner
from recovering import LONG, SETTLED, ask, assert_all_answered, assert_nothing_paid_twice, echo
from test_damaged import spoil

import claude_pipeline as cp
from claude_pipeline import leases
from claude_pipeline.cli import main
from claude_pipeline.store import Store

server, slow_server, folder = recovering.server, recovering.slow_server, recovering.folder

HOUR, DAY = 3600.0, 24 * 3600.0


def kinds(checkup):
    return [(finding.kind, finding.word) for finding in checkup.findings]


def results_of(folder, job, *, batch=0):
    return Store(folder).results_path(job.status().batches[batch].batch_id)


def checked(folder, **options):
    """Check a store at the place of its jobs."""
    return cp.doctor(store=folder, **options)


def assert_repairs(folder, kind):
    """Find something, repair it, and find it no more."""
    assert kinds(checked(folder)) in ([(kind, "warning")], [(kind, "error")])
    assert kinds(checked(folder, fix=True)) == [(kind, "repaired")]
    assert kinds(checked(folder)) == []


def test_a_store_that_is_well_is_said_to_be_and_with_which_versions(server, folder):
    ask(server.url, folder).wait(poll_interval=0)
    checkup = checked(folder)
    assert (checkup.findings, checkup.accounts, checkup.jobs, checkup.batches) == ((), ("sandbox",), 1, 1)
    assert checkup.versions["claude-pipeline"] == cp.__version__
    assert str(checkup).endswith("All is well.")


# Results


@pytest.mark.parametrize("harm", [os.unlink, lambda path: path.write_bytes(b"PAR1"), spoil])
def test_results_that_are_missing_or_damaged_are_fetched_again_as_they_were(server, folder, harm):
    job = ask(server.url, folder, max_batch_requests=4).wait(poll_interval=0)
    before = job.to_arrow()
    harm(results_of(folder, job))
    found = checked(folder, thorough=True).findings[0]
    assert f"The file with 4 answers of {job.job_id}, which cost" in str(found)
    assert "The API still has it. --fix fetches it again." in str(found)
    assert [word for _, word in kinds(checked(folder, thorough=True, fix=True))] == ["repaired"]
    assert job.to_arrow() == before
    assert_nothing_paid_twice(server)


@pytest.mark.usefixtures("each_ledger")
def test_results_that_nobody_has_are_asked_again_only_once_they_are_given_up(slow_server, folder):
    job = ask(slow_server.url, folder)
    slow_server.advance_clock(LONG)
    job.wait(poll_interval=0)
    cost = job.status().cost_usd
    results_of(folder, job).unlink()
    slow_server.advance_clock(30 * DAY)
    for checkup in (checked(folder), checked(folder, fix=True)):
        assert kinds(checkup) == [("missing_results", "error")]
        assert checkup.needs_somebody
        assert "Bring it back from a backup. Or give it up with --fix --give-up-lost" in str(checkup)
    assert job.resume().unanswered == 0
    assert "`resume` or a submit then asks again" in str(checked(folder, fix=True, give_up_lost=True))
    assert (kinds(checked(folder)), job.status().unanswered) == ([], 6)
    job.resume()
    slow_server.advance_clock(LONG)
    assert_all_answered(job.wait(poll_interval=0))
    assert job.status().cost_usd == pytest.approx(2 * cost)
    assert job.status().counts.errored == 0


def test_an_input_that_is_missing_comes_back_with_the_same_submit(server, folder):
    job = ask(server.url, folder).wait(poll_interval=0)
    Store(folder).input_path(job.job_id).unlink()
    (found,) = checked(folder, fix=True).findings
    assert (found.kind, found.repair) == ("missing_input", None)
    assert f"The input of {job.job_id} is missing: jobs/{job.job_id}/input.parquet." in found.message
    assert_all_answered(ask(server.url, folder))
    assert checked(folder).findings == ()


def test_a_list_of_rows_answered_elsewhere_that_is_missing_is_named(server, folder):
    ask(server.url, folder, rows=3).wait(poll_interval=0)
    job = ask(server.url, folder).wait(poll_interval=0)
    Store(folder).foreign_path(job.job_id).unlink()
    assert kinds(checked(folder)) == [("missing_foreign", "error")]
    assert "submit the table again with another name=" in str(checked(folder))
    assert_all_answered(ask(server.url, folder, name="again").wait(poll_interval=0))
    assert server.usage()["requests_accepted"] == 6


# What came to a stop


def test_a_shard_in_doubt_is_settled(server, folder):
    server.fail_next("create", "drop_after")
    job = ask(server.url, folder)
    assert_repairs(folder, "doubtful_shard")
    assert_all_answered(job.wait(poll_interval=0))
    assert_nothing_paid_twice(server)


def test_what_a_dead_process_was_sending_is_planned_again_and_not_sent_by_a_repair(server, folder):
    server.fail_next("create", 429, retry_after=0)
    job = ask(server.url, folder)
    ledger = Store(folder).ledger
    (shard,) = ledger.own_shards(job.job_id)
    owner, until = f"{leases._host()} 4194305 0 gone", ledger.now() + leases.LEASE_SECONDS
    ledger.move(shard.shard, ("planned",), state="uploading", owner=owner, lease_until=until)
    assert_repairs(folder, "dead_owner")
    assert ledger.shard(shard.shard).state == "planned"
    assert server.usage()["batches"] == 0


def test_a_blocked_job_needs_a_person(server, folder):
    server.fail_next("create", 402)
    job = ask(server.url, folder)
    checkup = checked(folder, fix=True)
    assert kinds(checkup) == [("blocked_job", "warning")]
    assert f"claude-pipeline resume {job.job_id}" in str(checkup)
    assert checkup.needs_somebody


# Batches


def test_batches_near_their_end_are_told_in_time(folder):
    with cp.Sandbox(answer=echo, batch_seconds=3 * DAY) as server:
        ask(server.url, folder)
        server.advance_clock(23 * HOUR)
        early = checked(folder)
        assert kinds(early) == [("expiring_batch", "info")]
        assert not early.needs_somebody
        server.advance_clock(3 * HOUR)
        assert kinds(checked(folder)) == [("uncollected_batch", "warning")]
        server.advance_clock(27 * DAY)
        assert "keeps its results no longer than in about" in str(checked(folder))
        assert_repairs(folder, "vanishing_results")


def test_a_batch_that_is_gone_is_said_and_blocks_its_job(slow_server, folder):
    ask(slow_server.url, folder)
    slow_server.advance_clock(30 * DAY)
    assert kinds(checked(folder)) == [("gone_batch", "error")]
    assert kinds(checked(folder, fix=True)) == [("blocked_job", "warning")]


def test_a_batch_that_the_ledger_lost_is_read_in_and_those_of_others_are_only_counted(server, folder, tmp_path):
    job = ask(server.url, folder)
    ledger = Store(folder).ledger
    (shard,) = ledger.own_shards(job.job_id)
    ledger.move(shard.shard, (shard.state,), state="planned", batch_id=None, not_before=1e12)
    ask(server.url, tmp_path / "other", salt="other")
    assert kinds(checked(folder)) == [("orphan", "warning"), ("unknown_batches", "info")]
    assert kinds(checked(folder, fix=True)) == [("orphan", "repaired"), ("unknown_batches", "info")]
    assert_all_answered(job.wait(poll_interval=0))
    assert_nothing_paid_twice(server)


def test_lines_that_were_billed_and_never_delivered_are_told(slow_server, folder):
    job = ask(slow_server.url, folder)
    (batch,) = job.status().batches
    slow_server.fail_next("results", "missing_line", times=3)
    slow_server.advance_clock(LONG + SETTLED)
    job.advance()
    (found,) = checked(folder).findings
    assert (found.kind, found.severity) == ("undelivered_lines", "info")
    assert f"1 request of {job.job_id} got no line in the results of {batch.batch_id}" in found.message


# Who and where


def test_without_the_api_what_is_on_disk_is_checked_all_the_same(folder):
    with cp.Sandbox(answer=echo) as server:
        job = ask(server.url, folder).wait(poll_interval=0)
    results_of(folder, job).unlink()
    checkup = checked(folder)
    assert kinds(checkup) == [("missing_results", "error"), ("api_not_asked", "warning")]
    assert "run this as account sandbox, whose API may still have it" in str(checkup)
    assert kinds(checked(folder, fix=True, give_up_lost=True)) == kinds(checkup)


def test_jobs_of_other_accounts_are_said_and_not_touched(server, folder):
    ask(server.url, folder).wait(poll_interval=0)
    with cp.Sandbox(answer=echo, workspace="wrkspc_other", batch_seconds=HOUR) as other:
        theirs = ask(other.url, folder)
        other.advance_clock(20 * HOUR)
        checkup = cp.doctor(store=folder, base_url=server.url, fix=True)
    assert kinds(checkup) == [("other_account", "info")]
    assert "Of account wrkspc_other 1 job was checked on disk alone." in str(checkup)
    assert theirs.status().batches[0].processing_status == "in_progress"


def test_leftovers_and_strays_are_told_and_only_leftovers_removed(server, folder):
    ask(server.url, folder).wait(poll_interval=0)
    old, stray = folder / "spool" / "left.parquet", folder / "results" / "msgbatch_stray.parquet"
    old.touch()
    stray.touch()
    os.utime(old, (time.time() - 3 * DAY,) * 2)
    assert kinds(checked(folder)) == [("left_behind", "info"), ("stray_results", "info")]
    assert kinds(checked(folder, fix=True)) == [("left_behind", "repaired"), ("stray_results", "info")]
    assert (old.exists(), stray.exists()) == (False, True)


def test_a_disk_that_has_too_little_room_is_told(slow_server, folder, monkeypatch):
    ask(slow_server.url, folder)
    monkeypatch.setattr(Store, "free_bytes", lambda _store: 1_000_000)
    assert kinds(checked(folder)) == [("little_disk", "warning")]
    assert "has 1 MB left, and what is being asked may take 100 MB" in str(checked(folder))


# The command


def run(*words):
    return CliRunner().invoke(main, ["doctor", *words])


def test_the_command_tells_monitors_by_its_exit_code(server, folder):
    assert run("--store", str(folder)).exit_code == 1
    job = ask(server.url, folder).wait(poll_interval=0)
    assert run("--store", str(folder)).exit_code == 0
    results_of(folder, job).unlink()
    missing = run("--store", str(folder), "--json")
    told = json.loads(missing.stdout)
    assert (missing.exit_code, told["needs_somebody"], told["findings"][0]["kind"]) == (3, True, "missing_results")
    repaired = run("--store", str(folder), "--fix")
    assert repaired.exit_code == 0
    assert "All is well. 1 thing repaired." in repaired.stdout
    assert run("--store", str(folder), "--give-up-lost").exit_code == 2


def test_without_credentials_the_command_says_so_and_fails(folder):
    Store(folder)
    told = run("--store", str(folder))
    assert told.exit_code == 1
    assert "The API was not asked, so batches were not checked. No credentials" in told.stdout


def test_many_findings_of_a_kind_are_not_all_printed(server, folder):
    job = ask(server.url, folder, rows=12, max_batch_requests=1).wait(poll_interval=0)
    for number in range(12):
        results_of(folder, job, batch=number).unlink()
    assert "… and 2 more like it" in run("--store", str(folder)).stdout
    assert len(checked(folder).findings) == 12
