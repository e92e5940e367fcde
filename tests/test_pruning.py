"""Retention: what is old and nobody needs goes, who needs an answer keeps it, and nothing points to what is gone."""

import json
import sqlite3
import threading
from contextlib import closing
from datetime import timedelta

import pytest
from click.testing import CliRunner
from conftest import submit_to

import claude_pipeline as cp
from claude_pipeline.cli import main
from claude_pipeline.store import Store

DAY = 86_400
NAMES = ["one", "two", "three", "four"]


@pytest.fixture(scope="module")
def sandbox():
    with cp.Sandbox(answer=lambda params: params["messages"][0]["content"]) as server:
        yield server


@pytest.fixture
def answered(sandbox, store):
    """Have rows answered, so long ago if it is said."""

    def answered(texts, *, days=0, **options):
        job = submit_to(sandbox, texts, store=store, base_url=sandbox.url, **options).wait(poll_interval=0)
        age(store, job, days)
        return job

    return answered


def age(store, job, days):
    """Let a job, and what it asked, be older."""
    with closing(sqlite3.connect(store / "ledger.sqlite")) as ledger, ledger:
        sql = "UPDATE jobs SET ended_at = ended_at - :by, submitted_at = submitted_at - :by WHERE job_id = :job"
        ledger.execute(sql, {"by": days * DAY, "job": job.job_id})
        sql = "UPDATE shards SET collected_at = collected_at - :by WHERE job_id = :job"
        ledger.execute(sql, {"by": days * DAY, "job": job.job_id})


def run(*words):
    return CliRunner().invoke(main, list(map(str, words)))


def responses(job):
    return job.to_arrow()["response"].to_pylist()


def files(store):
    return sorted(path.name for path in [*store.glob("jobs/*/*"), *store.glob("results/*")])


def test_an_old_job_loses_input_and_answers_and_keeps_its_figures(answered, store):
    job = answered(NAMES, days=31)
    before, costs = job.status(), cp.costs(by="job", store=store)
    pruned = cp.prune(older_than="30d", store=store)
    assert [gone.job_id for gone in pruned.jobs] == [job.job_id]
    assert pruned.answers == 1
    assert pruned.bytes > 0
    assert files(store) == []
    status = job.status()
    assert (status.cost_usd, status.counts, status.batches) == (before.cost_usd, before.counts, before.batches)
    assert status.pruned_at is not None
    assert "pruned on" in status.reason
    assert cp.costs(by="job", store=store).equals(costs)
    assert run("list", "--store", store).stdout.splitlines()[1].split()[1] == "pruned"


USES = {
    "read": cp.Job.to_arrow,
    "list what failed": cp.Job.failed,
    "resume": cp.Job.resume,
    "write": lambda job: job.write("answers.csv"),
    "ask again": lambda job: job.ask_again([0]),
    "compare": lambda job: cp.compare(job, job),
}


@pytest.mark.parametrize("use", USES)
def test_whoever_wants_answers_of_a_pruned_job_hears_the_way_out(answered, store, use):
    job = answered(NAMES, days=31)
    cp.prune(older_than=timedelta(days=30), store=store)
    with pytest.raises(cp.StoreError, match=rf"^{job.job_id} has no answers any more: they were pruned.*Submit the"):
        USES[use](job)


def test_the_same_submit_brings_a_pruned_job_to_life_and_is_asked_anew(answered, store, sandbox):
    job = answered(NAMES, days=31)
    spent = cp.costs(store=store)["cost_usd"][0].as_py()
    cp.prune(older_than="30d", store=store)
    accepted = sandbox.usage()["requests_accepted"]
    again = answered(NAMES)
    assert again.job_id == job.job_id
    assert responses(again) == NAMES
    assert sandbox.usage()["requests_accepted"] - accepted == len(NAMES)
    assert again.status().counts.succeeded == len(NAMES)
    assert sum(cp.costs(store=store)["cost_usd"].to_pylist()) == pytest.approx(2 * spent)
    assert cp.prune(older_than="30d", store=store) == cp.Pruned()
    assert responses(again) == NAMES


def test_what_a_younger_job_has_reused_stays_and_only_the_rest_is_asked_again(answered, store, sandbox):
    old = answered(NAMES, days=31, max_batch_requests=2)
    young = answered(NAMES[:1])
    found = cp.prune(older_than="30d", store=store)
    assert (found.answers, found.shared) == (1, 1)
    assert responses(young) == NAMES[:1]
    accepted = sandbox.usage()["requests_accepted"]
    assert responses(answered(NAMES, max_batch_requests=2)) == NAMES
    assert sandbox.usage()["requests_accepted"] - accepted == 2
    age(store, old, 62)
    age(store, young, 31)
    cp.prune(older_than="30d", store=store)
    assert files(store) == []


@pytest.mark.usefixtures("each_ledger")
def test_prune_and_costs_do_on_a_server_what_they_do_with_a_file(sandbox, store):
    job = submit_to(sandbox, NAMES, store=store, base_url=sandbox.url).wait(poll_interval=0)
    cost = job.status().cost_usd
    pruned = cp.prune(store=store, older_than=timedelta(microseconds=1))
    assert [each.job_id for each in pruned.jobs] == [job.job_id]
    assert files(store) == []
    for by in ("day", "model", "job"):
        assert sum(cp.costs(by=by, store=store)["cost_usd"].to_pylist()) == pytest.approx(cost)
    assert [budget.spent_usd for budget in cp.list_budgets(store=store)] == pytest.approx([cost, cost])
    before = sandbox.usage()["requests_accepted"]
    submit_to(sandbox, NAMES, store=store, base_url=sandbox.url).wait(poll_interval=0)
    assert sandbox.usage()["requests_accepted"] == before + len(NAMES)


def test_a_job_that_was_submitted_again_lately_stays(answered, store):
    job = answered(NAMES, days=31)
    answered(NAMES)
    assert not cp.prune(older_than="30d", store=store)
    assert responses(job) == NAMES


def test_open_and_blocked_jobs_stay_however_old_and_so_does_the_input_of_a_batch_that_others_wait_for(store):
    with cp.Sandbox(batch_seconds=3600, rows=lambda *_: "credit_too_low") as server:
        options = {"store": store, "base_url": server.url, "max_batch_requests": 1, "max_queued_requests": 1}
        canceled = submit_to(server, NAMES[:2], **options)
        waiting = submit_to(server, NAMES[:2], name="waiting", **options)
        assert canceled.cancel().state == "ended"
        blocked = submit_to(server, ["else"], store=store, base_url=server.url)
        server.advance_clock(3600)
        assert blocked.advance().state == "blocked"
        for job in (canceled, waiting, blocked):
            age(store, job, 400)
        before = files(store)
        assert not cp.prune(older_than="1h", store=store)
        assert files(store) == before


def test_an_older_store_keeps_what_its_models_cost(answered, store):
    answered(NAMES, days=31)
    by_model = cp.costs(by="model", store=store)
    with closing(sqlite3.connect(store / "ledger.sqlite")) as ledger, ledger:
        ledger.execute("DELETE FROM shard_models")
    cp.prune(older_than="30d", store=store)
    assert cp.costs(by="model", store=store).to_pylist() == [pytest.approx(row) for row in by_model.to_pylist()]


@pytest.mark.parametrize("steps", range(4))
def test_killed_anywhere_it_leaves_no_claim_without_its_answer_and_the_next_one_goes_on(
    answered, store, sandbox, steps
):
    job = answered(NAMES, days=31)
    opened = Store(store)
    (shard,) = opened.ledger.own_shards(job.job_id)
    moment = opened.ledger.now() - 30 * DAY
    doing = [
        lambda: opened.ledger.prune_jobs(moment),
        lambda: opened.ledger.prune_shard(shard),
        lambda: opened.remove_results(shard.results_id),
        lambda: opened.input_path(job.job_id).unlink(),
    ]
    for step in doing[: steps + 1]:
        step()
    if steps % 2:
        assert cp.prune(older_than="30d", store=store)
        assert files(store) == []
    accepted = sandbox.usage()["requests_accepted"]
    assert responses(answered(NAMES)) == NAMES
    assert sandbox.usage()["requests_accepted"] - accepted == (0 if steps == 0 else len(NAMES))
    cp.prune(older_than="30d", store=store)
    assert responses(job) == NAMES


def test_a_prune_beside_submits_and_other_prunes_takes_from_no_job_what_it_waits_for(answered, store):
    answered(NAMES)
    done, errors = threading.Event(), []

    def keep_pruning():
        try:
            while not done.is_set():
                cp.prune(older_than="0h", store=store)
        except cp.PipelineError as error:
            errors.append(error)

    threads = [threading.Thread(target=keep_pruning) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(8):
            texts = NAMES[turn % 3 :]
            job = answered(texts, name=str(turn % 2))
            assert job.status().unanswered == 0
            try:
                assert responses(job) == texts
            except cp.StoreError:
                assert cp.open_job(job.job_id, store=store).status().pruned_at is not None
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert errors == []
    assert responses(answered(NAMES)) == NAMES


def test_collected_batches_are_deleted_at_the_api_and_nobody_takes_them_for_gone(answered, store, sandbox):
    job = answered(NAMES, days=2)
    ((batch,), known) = job.status().batches, sandbox.requests
    found = cp.prune(batches_older_than="1d", dry_run=True, store=store)
    assert found.batches == (batch.batch_id,)
    assert list(known(batch.batch_id))
    assert cp.prune(batches_older_than="1d", store=store) == found
    assert batch.batch_id not in {request.batch_id for request in known()}
    cp.advance(store=store, base_url=sandbox.url)
    assert (job.status().reason, responses(job)) == (None, NAMES)
    assert not cp.prune(batches_older_than="0h", store=store)
    cp.prune(older_than="1d", store=store)
    assert responses(answered(NAMES)) == NAMES


HARMS = {
    "missing": lambda path: path.unlink(),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "overwritten": lambda path: path.write_bytes(b"PAR1" + bytes(200) + path.read_bytes()[204:]),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_batch_whose_answers_the_store_cannot_read_is_never_deleted(answered, store, sandbox, harm):
    answered(NAMES, days=2)
    for path in store.glob("results/*.parquet"):
        HARMS[harm](path)
    submit_to(sandbox, ["not collected yet"], store=store, base_url=sandbox.url)
    assert cp.prune(batches_older_than="0h", store=store).batches == ()


def test_the_shell_shows_what_goes_before_it_does(answered, store):
    job = answered(NAMES, days=31, name="nightly")
    shown = run("prune", "--older-than", "30d", "--store", store, "--dry-run")
    assert shown.stdout.splitlines()[1].split()[::6] == [job.job_id, "nightly"]
    assert "1 job, 1 file of answers" in shown.stderr
    assert "pays again: these have cost <$0.0001" in shown.stderr
    refused = run("prune", "--older-than", "30d", "--store", store)
    assert (refused.exit_code, "Pass --yes" in refused.stderr) == (2, True)
    assert responses(job) == NAMES
    told = run("prune", "--older-than", "30d", "--store", store, "--yes", "--json")
    assert [gone["name"] for gone in json.loads(told.stdout)["jobs"]] == ["nightly"]
    assert files(store) == []
    assert run("prune", "--older-than", "30d", "--store", store).stderr == "Nothing is that old.\n"


def test_an_age_that_is_none_is_named(store):
    with pytest.raises(cp.InputError, match=r"older_than is '30 days', which is no age\. Give one such as 30d"):
        cp.prune(older_than="30 days", store=store)
    with pytest.raises(cp.InputError, match="still to come"):
        cp.prune(batches_older_than=timedelta(days=-1), store=store)
    with pytest.raises(cp.InputError, match="Nothing is old by itself"):
        cp.prune(store=store)
    assert run("prune", "--store", store).exit_code == 2
    assert cp.prune(older_than="1d", store=store) == cp.Pruned()
    assert not store.exists()
