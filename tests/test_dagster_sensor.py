"""The sensor: what a tick does, says and requests, and what becomes of the runs that it requests."""

import json
import socket
from datetime import UTC, datetime, timedelta

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from locations import LABELS_BATCH, REVIEWS, Location, build_labels
from meddler import Answer, Meddler
from sqlalchemy import text

import claude_pipeline as cp
from claude_pipeline.dagster import ClaudeResource

WAVES = {"max_batch_requests": 2, "max_queued_requests": 2}


@pytest.fixture
def slow_sandbox():
    """Run a sandbox whose batches end when a test steps its clock."""
    with cp.Sandbox(batch_seconds=3600) as server:
        yield server


@pytest.fixture
def instance():
    """Keep runs and events in memory."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def locate(instance, store):
    """Open a code location whose batches go to a sandbox."""
    return lambda sandbox, *definitions: Location(
        instance, ClaudeResource(base_url=sandbox.url, api_key="sandbox", store=str(store)), *definitions
    )


def changing_asset(*values):
    """Define the asset `reviews`, which has another value with each materialization."""
    left = list(values)

    @dg.asset
    def reviews():
        return left.pop(0)

    return dg.Definitions(assets=[reviews])


def test_a_tick_before_anything_was_submitted_says_so_and_needs_no_credentials(instance, store):
    location = Location(instance, ClaudeResource(store=str(store)), build_labels())

    assert location.tick().skip_message == "Nothing was submitted yet. Materialize labels_batch first."
    assert not store.exists()


def test_a_tick_only_polls_then_requests_one_run(slow_sandbox, locate, store):
    location = locate(slow_sandbox, build_labels(**WAVES))
    location.materialize("labels_batch")
    slow_sandbox.advance_clock(3600)
    for transfer in ("results", "create", "retrieve"):
        slow_sandbox.fail_next(transfer, 500)

    tick = location.tick()

    (status,) = cp.list_jobs(store=store)
    (request,) = tick.run_requests
    assert request.run_key == f"{status.job_id}:{status.changes}"
    assert request.tags["claude/job_id"] == status.job_id
    assert slow_sandbox.usage()["batches"] == 1
    assert all(slow_sandbox._faults.take(transfer) for transfer in ("results", "create", "retrieve"))


def test_a_tick_while_batches_run_says_how_far_they_are(slow_sandbox, locate, store):
    location = locate(slow_sandbox, build_labels())
    location.materialize("labels_batch")

    tick = location.tick()

    (status,) = cp.list_jobs(store=store)
    assert (tick.run_requests or [], tick.skip_message) == ([], f"{status.job_id} is in progress: 0 %.")


def test_every_wave_gets_its_run_until_the_asset_is_materialized(slow_sandbox, locate):
    location = locate(slow_sandbox, build_labels(**WAVES))
    location.materialize("labels_batch")
    landed, ticks = [], []

    for _wave in range(3):
        slow_sandbox.advance_clock(3600)
        run = location.look()
        landed.append((run.success, run.materialized))
        ticks.append(location.tick())

    assert landed == [(True, []), (True, []), (True, ["labels"])]
    assert slow_sandbox.usage()["batches"] == 3
    assert "is in progress: 33 %. 1 of 3 batches wait for room in the queue." in ticks[0].skip_message
    assert "materialized" in ticks[-1].skip_message


def test_each_further_tenth_is_observed_once(slow_sandbox, locate, instance):
    location = locate(slow_sandbox, build_labels(**WAVES))
    location.materialize("labels_batch")
    for _wave in range(2):
        slow_sandbox.advance_clock(3600)
        location.look()
        location.tick()
        location.tick()

    records = instance.fetch_observations(LABELS_BATCH, limit=10).records
    observed = [record.asset_observation.metadata for record in reversed(records)]

    said = ("claude/percent", "claude/succeeded", "claude/processing", "claude/waiting")
    assert [tuple(metadata[name].value for name in said) for metadata in observed] == [(33, 2, 2, 2), (66, 4, 2, 0)]


def test_a_run_that_finds_nothing_ended_is_green_and_yields_nothing(slow_sandbox, locate, store):
    location = locate(slow_sandbox, build_labels(**WAVES))
    location.materialize("labels_batch")
    slow_sandbox.advance_clock(3600)
    tick = location.tick()
    cp.advance(store=store, base_url=slow_sandbox.url)

    run = location.run_requested(tick)

    assert (run.success, run.materialized, run.checks) == (True, [], {})


def test_green_runs_that_could_do_nothing_yet_are_asked_again_as_often_as_it_takes(slow_sandbox, locate):
    location = locate(slow_sandbox, build_labels())
    location.materialize("labels_batch")
    slow_sandbox.advance_clock(3600)
    slow_sandbox.fail_next("retrieve", 404, times=4)

    runs = [location.look() for _time in range(5)]

    assert [run.materialized for run in runs] == [[], [], [], [], ["labels"]]


def test_a_failed_run_is_asked_again_three_times_then_the_user_is_and_a_run_by_hand_sets_it_going(
    slow_sandbox, locate, tmp_path
):
    folder = tmp_path / "out"
    folder.mkdir()
    location = locate(slow_sandbox, build_labels(output_path=folder / "labels.parquet"))
    location.materialize("labels_batch")
    slow_sandbox.advance_clock(3600)
    folder.rmdir()

    collecting = location.look()  # changes the ledger, so that the count of failures starts after it
    failures = [location.look() for _time in range(3)]
    stopped = location.tick()
    folder.mkdir()
    by_hand = location.materialize("labels")

    assert not any(run.success for run in (collecting, *failures))
    assert {run.reason for run in failures} == {
        f"There is no folder {folder} to write labels.parquet to. Create it first."
    }
    assert not stopped.run_requests
    assert stopped.skip_message.endswith("failed in a row. Mend what they say, then materialize labels.")
    assert by_hand.materialized == ["labels"]
    assert location.tick().skip_message.endswith("its answers are materialized.")


def test_a_run_under_way_holds_back_a_second(slow_sandbox, locate, instance):
    location = locate(slow_sandbox, build_labels())
    location.materialize("labels_batch")
    slow_sandbox.advance_clock(3600)
    (request,) = location.tick().run_requests
    job = location.defs.resolve_job_def("labels_collect_job")
    instance.create_run_for_job(job, tags=request.tags, status=dg.DagsterRunStatus.STARTED)

    tick = location.tick()

    assert not tick.run_requests
    assert "is under way" in tick.skip_message


def test_a_blocked_job_says_why_and_how_to_resume_and_requests_no_run(locate, store):
    with cp.Sandbox(rows=lambda _id, _params, attempt: "credit_too_low" if attempt == 1 else None) as sandbox:
        location = locate(sandbox, build_labels())
        location.materialize("labels_batch")
        blocking = location.look()
        tick = location.tick()
        by_hand = location.materialize("labels")
        (status,) = cp.list_jobs(store=store)
        cp.open_job(status.job_id, store=store, base_url=sandbox.url).resume()
        resumed = location.look()

    assert not blocking.success
    assert not tick.run_requests
    assert "credit balance is too low" in tick.skip_message
    assert f"claude-pipeline resume {status.job_id} --store {store}" in tick.skip_message
    assert not by_hand.success
    assert by_hand.reason.startswith(f"{status.job_id} is blocked: ")
    assert "credit balance is too low" in by_hand.reason
    assert resumed.materialized == ["labels"]


def test_an_api_that_cannot_be_reached_is_a_skip_with_the_reason_and_no_run_that_would_fail(locate, store):
    with cp.Sandbox(batch_seconds=3600) as sandbox:
        location = locate(sandbox, build_labels())
        location.materialize("labels_batch")
        sandbox.advance_clock(3600)
        cp.poll(store=store, base_url=sandbox.url)
        (status,) = cp.list_jobs(store=store)

    tick = location.tick()

    assert status.is_due
    assert not tick.run_requests
    assert "could not be reached" in tick.skip_message
    assert f"{status.job_id} is in progress: 0 %." in tick.skip_message


def test_a_tick_without_an_open_job_needs_no_credentials(sandbox, locate, instance, store):
    locate(sandbox, build_labels()).materialize()
    location = Location(instance, ClaudeResource(store=str(store)), build_labels())

    assert location.tick().skip_message.endswith("has ended, and its answers are materialized.")


def test_answers_collected_through_another_door_are_materialized_at_the_next_tick(slow_sandbox, locate, store):
    location = locate(slow_sandbox, build_labels())
    location.materialize("labels_batch")
    slow_sandbox.advance_clock(3600)
    cp.advance(store=store, base_url=slow_sandbox.url)

    assert location.look().materialized == ["labels"]


def test_rows_asked_again_in_the_shell_materialize_anew(locate, store):
    with cp.Sandbox(rows=lambda _id, _params, attempt: "expired" if attempt == 1 else None) as sandbox:
        location = locate(sandbox, build_labels(max_attempts=1))
        before = location.materialize()
        (status,) = cp.list_jobs(store=store)
        cp.open_job(status.job_id, store=store, base_url=sandbox.url).resume()
        after = location.look()

    assert (before.metadata()["claude/unanswered"], after.metadata()["claude/unanswered"]) == (6, 0)


def test_a_changed_table_is_a_new_job_whose_answers_replace_the_old(sandbox, locate):
    location = locate(sandbox, changing_asset(REVIEWS, REVIEWS.slice(0, 2)), build_labels(upstream="reviews"))
    location.materialize()
    spent = sandbox.usage()

    run = location.materialize()

    assert run.metadata()["dagster/row_count"] == 2
    assert run.metadata()["claude/reused"] == 2
    assert pq.read_metadata(location.claude.answers_path("labels")).num_rows == 2
    assert sandbox.usage() == spent
    assert not location.tick().run_requests


def test_an_older_job_of_the_asset_is_advanced_as_well_by_one_run(slow_sandbox, locate, store):
    others = pa.table({"id": [9], "text": ["Another table."]})
    location = locate(slow_sandbox, changing_asset(REVIEWS, others), build_labels(upstream="reviews"))
    location.materialize("reviews", "labels_batch")
    location.materialize("reviews", "labels_batch")
    slow_sandbox.advance_clock(3600)

    run = location.look()

    assert run.metadata()["dagster/row_count"] == 1
    assert [status.state for status in cp.list_jobs(store=store)] == ["ended", "ended"]
    assert not location.tick().run_requests


def test_an_older_job_of_another_account_does_not_hold_up_the_last(locate, slow_sandbox, store):
    labels = build_labels(upstream="reviews")
    reviews = changing_asset(REVIEWS, REVIEWS.slice(0, 2))
    locate(slow_sandbox, reviews, labels).materialize("reviews", "labels_batch")
    with cp.Sandbox(workspace="wrkspc_2") as sandbox:
        location = locate(sandbox, reviews, labels)
        location.materialize("reviews", "labels_batch")
        run = location.look()

    assert run.metadata()["dagster/row_count"] == 2
    assert [status.state for status in cp.list_jobs(store=store)] == ["in_progress", "ended"]


@pytest.mark.parametrize("status", [403, 500])
def test_trouble_with_the_batch_of_one_job_holds_up_no_other(slow_sandbox, locate, store, status):
    with Meddler(slow_sandbox.url) as meddler:
        reviews = changing_asset(REVIEWS, REVIEWS.slice(0, 2).set_column(1, "text", [["One.", "Two."]]))
        location = locate(meddler, reviews, build_labels(upstream="reviews"))
        location.materialize("reviews", "labels_batch")
        location.materialize("reviews", "labels_batch")
        older = cp.list_jobs(store=store)[0].batches[0].batch_id
        meddler.meddle = lambda seen, true: hidden(older, status, seen, true)
        slow_sandbox.advance_clock(3600)
        tick = location.tick()
        run = location.run_requested(tick)

    assert run.metadata()["dagster/row_count"] == 2
    assert [status.state for status in cp.list_jobs(store=store)] == ["in_progress", "ended"]


def hidden(batch_id, status, seen, true):
    """Leave a batch out of lists, and refuse to show it."""
    if seen.path.endswith(batch_id):
        return Answer(status, b"{}")
    if "?" not in seen.path:
        return None
    page = json.loads(true.body)
    page["data"] = [batch for batch in page["data"] if batch["id"] != batch_id]
    return Answer(200, json.dumps(page).encode(), true.headers)


def test_results_that_may_come_late_request_no_run_before_their_pause_is_over(slow_sandbox, locate):
    location = locate(slow_sandbox, build_labels())
    location.materialize("labels_batch")
    slow_sandbox.advance_clock(3600)
    slow_sandbox.fail_next("results", "missing_line", times=3)

    run, tick = location.look(), location.tick()

    assert (run.success, run.materialized) == (True, [])
    assert not tick.run_requests
    assert "They may come late; looking again in" in tick.skip_message


def test_a_canceled_job_materializes_what_was_answered(slow_sandbox, locate, store):
    location = locate(slow_sandbox, build_labels(**WAVES))
    location.materialize("labels_batch")
    slow_sandbox.advance_clock(3600)
    location.look()
    (status,) = cp.list_jobs(store=store)
    cp.open_job(status.job_id, store=store, base_url=slow_sandbox.url).cancel()
    slow_sandbox.advance_clock(3600)

    said = location.look().metadata()

    assert {kind: said[f"claude/rows_{kind}"] for kind in ("succeeded", "canceled", "not_sent")} == {
        "succeeded": 2,
        "canceled": 2,
        "not_sent": 2,
    }


def calls(sandbox, tick):
    """Count the calls of a tick."""
    before = len(sandbox.log())
    told = tick()
    return told, len(sandbox.log()) - before


def test_one_poll_serves_the_sensors_of_all_assets_in_a_store(slow_sandbox, locate):
    seldom = {"minimum_interval_seconds": 600}
    labels, topics = build_labels(**seldom), build_labels(key="topics", template="Topic: {text}", **seldom)
    location = locate(slow_sandbox, labels, topics)
    location.materialize()
    slow_sandbox.advance_clock(3600)
    cp.poll(store=location.claude.store_path(), base_url=slow_sandbox.url)

    first, by_first = calls(slow_sandbox, location.tick)
    second, by_second = calls(slow_sandbox, lambda: location.tick("topics_sensor"))

    assert (by_first, by_second) == (0, 0)
    assert (len(first.run_requests), len(second.run_requests)) == (1, 1)


def test_a_poll_that_came_to_nothing_serves_nobody(slow_sandbox, locate, store):
    location = locate(slow_sandbox, build_labels(minimum_interval_seconds=600))
    location.materialize("labels_batch")
    with Meddler(slow_sandbox.url) as meddler:
        meddler.meddle = lambda seen, _true: Answer(529, b"{}") if "limit=20" in seen.path else None
        statuses = cp.poll(store=store, base_url=meddler.url)

    _, asked = calls(slow_sandbox, location.tick)

    assert "529" in statuses[0].reason
    assert asked > 0


def test_a_tick_over_a_hundred_open_jobs_makes_two_calls(slow_sandbox, locate):
    numbers = [f"{number:03}" for number in range(100)]
    options = {"partitions_def": dg.StaticPartitionsDefinition(numbers), "partition_column": "text", "preflight": False}
    for number in numbers:
        table = pa.table({"text": [number]})
        cp.submit(
            table,
            template="Label: {text}",
            model="claude-haiku-4-5",
            max_tokens=16,
            name=f"labels[{number}]",
            store=locate(slow_sandbox).claude.store_path(),
            base_url=slow_sandbox.url,
            preflight=False,
        )
    location = locate(slow_sandbox, build_labels(**options))

    waiting, of_waiting = calls(slow_sandbox, location.tick)
    slow_sandbox.advance_clock(3600)
    ended, of_ended = calls(slow_sandbox, location.tick)

    assert (of_waiting, of_ended) == (2, 2)
    assert waiting.skip_message.endswith("And 95 more jobs.")
    assert [request.partition_key for request in ended.run_requests] == numbers[:10]


def test_a_fresh_daemon_knows_from_the_store_and_the_events_what_is_left_to_do(slow_sandbox, locate):
    location = locate(slow_sandbox, build_labels())
    location.materialize("labels_batch")
    slow_sandbox.advance_clock(3600)
    location.look()

    fresh = locate(slow_sandbox, build_labels())
    again = fresh.tick()
    with dg.DagsterInstance.ephemeral() as other:
        elsewhere = Location(other, fresh.claude, build_labels()).look()

    assert not again.run_requests
    assert again.skip_message.endswith("its answers are materialized.")
    assert elsewhere.materialized == ["labels"]


@pytest.mark.parametrize("cursor", ["", "null", "[]", '{"job_a": 3}', "torn {", '{"observed": 7}'])
def test_a_cursor_of_another_time_is_as_good_as_none(slow_sandbox, locate, cursor):
    location = locate(slow_sandbox, build_labels())
    location.materialize("labels_batch")
    slow_sandbox.advance_clock(3600)
    location._cursor = cursor

    assert len(location.tick().run_requests) == 1


def test_a_sensor_that_was_switched_off_for_days_lands_what_ended_meanwhile(slow_sandbox, locate):
    reviews = changing_asset(REVIEWS, REVIEWS.slice(0, 2))
    location = locate(slow_sandbox, reviews, build_labels(upstream="reviews"))
    location.materialize("reviews", "labels_batch")
    location.tick()
    slow_sandbox.advance_clock(3 * 24 * 3600)
    location.materialize("reviews", "labels_batch")

    run = location.look()

    assert run.metadata()["dagster/row_count"] == 2
    assert not location.tick().run_requests


def test_answers_that_were_replaced_and_are_wanted_back_are_materialized_again(sandbox, locate):
    reviews = changing_asset(REVIEWS, REVIEWS.slice(0, 2), REVIEWS)
    location = locate(sandbox, reviews, build_labels(upstream="reviews"))
    for _table in range(2):
        location.materialize()
        location.tick()
    location.materialize("reviews", "labels_batch")

    assert location.look().metadata()["dagster/row_count"] == 6


def test_after_an_outage_the_sensor_goes_on_by_itself(slow_sandbox, locate):
    with Meddler(slow_sandbox.url) as meddler:
        location = locate(meddler, build_labels())
        location.materialize("labels_batch")
        slow_sandbox.advance_clock(3600)
        meddler.meddle = lambda _seen, _true: Answer(529, b'{"error": {"message": "Overloaded"}}')
        ticks = [location.tick() for _time in range(2)]
        meddler.meddle = lambda _seen, _true: None
        run = location.look()

    assert [tick.run_requests or [] for tick in ticks] == [[], []]
    assert all("Overloaded" in tick.skip_message for tick in ticks)
    assert run.materialized == ["labels"]


def test_an_api_that_never_answers_ends_a_tick_with_the_reason(slow_sandbox, locate, instance, store, monkeypatch):
    monkeypatch.setattr("claude_pipeline.dagster.sensor._CALL_SECONDS", (0.25, 0.5, 1.0))
    locate(slow_sandbox, build_labels()).materialize("labels_batch")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        claude = ClaudeResource(base_url=url, api_key="sandbox", store=str(store))
        tick = Location(instance, claude, build_labels()).tick()

    assert "could not be reached" in tick.skip_message
    assert json.loads(tick.cursor) == {"failures": 1}


def test_a_run_lost_with_its_machine_is_not_waited_for(slow_sandbox, locate, instance):
    location = locate(slow_sandbox, build_labels())
    location.materialize("labels_batch")
    slow_sandbox.advance_clock(3600)
    (request,) = location.tick().run_requests
    job = location.defs.resolve_job_def("labels_collect_job")
    instance.create_run_for_job(job, tags=request.tags, status=dg.DagsterRunStatus.STARTED)
    assert not location.tick().run_requests
    with instance.run_storage.connect() as connection:
        connection.execute(text("UPDATE runs SET update_timestamp = '2026-01-01 00:00:00'"))

    assert location.look().materialized == ["labels"]


def test_a_batch_that_expires_soon_is_a_warning_once(slow_sandbox, locate, instance):
    slow_sandbox.set_clock(datetime.now(UTC) - timedelta(hours=22, minutes=10))
    location = locate(slow_sandbox, build_labels())
    location.materialize("labels_batch")

    ticks = [location.tick() for _time in range(2)]

    assert all("expires in about 2 h; what has no answer by then is asked again" in t.skip_message for t in ticks)
    (record,) = instance.fetch_observations(LABELS_BATCH, limit=10).records
    assert "expires in about 2 h" in record.asset_observation.metadata["claude/warning"].value


def test_results_that_the_api_soon_drops_are_a_warning(slow_sandbox, locate, instance):
    slow_sandbox.set_clock(datetime.now(UTC) - timedelta(days=28))
    location = locate(slow_sandbox, build_labels())
    location.materialize("labels_batch")
    slow_sandbox.advance_clock(3600)

    tick = location.tick()

    assert len(tick.run_requests) == 1
    (record,) = instance.fetch_observations(LABELS_BATCH, limit=10).records
    warning = record.asset_observation.metadata["claude/warning"].value
    assert "no longer than in about" in warning
    assert warning.endswith("Let a run collect them before.")


def test_a_young_batch_is_no_warning(slow_sandbox, locate, instance):
    location = locate(slow_sandbox, build_labels())
    location.materialize("labels_batch")

    assert "arning" not in location.tick().skip_message
    assert instance.fetch_observations(LABELS_BATCH, limit=10).records == []
