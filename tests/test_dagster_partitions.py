"""Partitions: each is a job of its own, has its own rows, and lands by itself."""

from datetime import UTC, date, datetime

import dagster as dg
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from locations import LABELS, LABELS_BATCH, Location, build_labels

import claude_pipeline as cp
from claude_pipeline.dagster import ClaudeResource, build_batch_defs
from claude_pipeline.dagster.partitions import Slices

DAILY = dg.DailyPartitionsDefinition("2026-11-01", end_date="2026-11-05")
DAYS = ("2026-11-01", "2026-11-02", "2026-11-03", "2026-11-04")
REVIEWS = pa.table(
    {
        "day": [date(2026, 11, 1), date(2026, 11, 2), date(2026, 11, 2), date(2026, 11, 3)],
        "shop": ["A/B", "south", "south", "A/B"],
        "text": ["One.", "Two.", "Three.", "Four."],
    }
)
pytestmark = pytest.mark.filterwarnings("ignore:Parameter `backfill_policy`")


@pytest.fixture
def slow_sandbox():
    """Run a sandbox whose batches end when a test steps its clock."""
    with cp.Sandbox(batch_seconds=3600) as server:
        yield server


@pytest.fixture
def locate(store):
    """Open a code location whose batches go to a sandbox."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield lambda sandbox, *definitions: Location(
            instance, ClaudeResource(base_url=sandbox.url, api_key="sandbox", store=str(store)), *definitions
        )


def range_of(first, last):
    """Choose a range of partitions for one run, as a single-run backfill does."""
    return {"tags": {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}}


def texts_of(location, partition):
    return pq.read_table(location.claude.answers_path("labels", partition))["text"].to_pylist()


def landed(location):
    return sorted(location.instance.get_materialized_partitions(LABELS))


def test_each_day_of_a_table_is_a_job_of_its_own_with_its_own_rows(slow_sandbox, locate, store):
    location = locate(slow_sandbox, build_labels(source=REVIEWS, partitions_def=DAILY, partition_column="day"))
    for day in DAYS[:2]:
        run = location.materialize("labels_batch", partition_key=day)
        assert run.success

    assert [(status.name, status.rows) for status in cp.list_jobs(store=store)] == [
        ("labels[2026-11-01]", 1),
        ("labels[2026-11-02]", 2),
    ]
    assert not location.tick().run_requests
    slow_sandbox.advance_clock(3600)
    tick = location.tick()
    assert [request.partition_key for request in tick.run_requests] == [*DAYS[:2]]
    assert all(location.run(request).success for request in tick.run_requests)
    assert landed(location) == [*DAYS[:2]]
    assert (texts_of(location, DAYS[0]), texts_of(location, DAYS[1])) == (["One."], ["Two.", "Three."])
    assert "materialized" in location.tick().skip_message


def test_static_partitions_go_by_a_column_that_holds_their_keys(sandbox, locate):
    shops = dg.StaticPartitionsDefinition(["A/B", "south"])
    location = locate(sandbox, build_labels(source=REVIEWS, partitions_def=shops, partition_column="shop"))

    run = location.materialize(partition_key="A/B")

    assert run.materialized == ["labels_batch", "labels"]
    assert texts_of(location, "A/B") == ["One.", "Four."]
    assert location.claude.answers_path("labels", "A/B").name == "A%2FB.parquet"


@pytest.mark.parametrize("convert", [pd.DataFrame, pl.DataFrame, pa.table], ids=["pandas", "polars", "arrow"])
def test_an_upstream_asset_with_the_same_partitions_is_loaded_by_partition(sandbox, locate, convert):
    @dg.asset(partitions_def=DAILY)
    def reviews(context: dg.AssetExecutionContext):
        return convert({"text": [f"Of {context.partition_key}."]})

    location = locate(sandbox, dg.Definitions(assets=[reviews]), build_labels(upstream="reviews", partitions_def=DAILY))

    for day in DAYS[:2]:
        assert location.materialize(partition_key=day).success

    assert texts_of(location, DAYS[1]) == ["Of 2026-11-02."]


def test_a_backfill_in_a_single_run_submits_each_partition_and_each_lands_by_itself(slow_sandbox, locate, store):
    single_run = dg.BackfillPolicy.single_run()
    location = locate(
        slow_sandbox,
        build_labels(source=REVIEWS, partitions_def=DAILY, partition_column="day", backfill_policy=single_run),
    )

    run = location.materialize("labels_batch", **range_of(DAYS[0], DAYS[2]))

    events = run.result.get_asset_materialization_events()
    rows = {event.partition: event.materialization.metadata["claude/rows"].value for event in events}
    assert rows == {DAYS[0]: 1, DAYS[1]: 2, DAYS[2]: 1}
    assert len({event.materialization.metadata["claude/job_id"].value for event in events}) == 3
    slow_sandbox.advance_clock(3600)
    for request in location.tick().run_requests:
        assert location.run(request).success
    assert landed(location) == [*DAYS[:3]]
    assert sum(status.rows for status in cp.list_jobs(store=store)) == 4


def test_a_run_of_several_partitions_leaves_their_answers_to_the_sensor(sandbox, locate):
    single_run = dg.BackfillPolicy.single_run()
    options = {"partitions_def": DAILY, "partition_column": "day", "backfill_policy": single_run}
    location = locate(sandbox, build_labels(source=REVIEWS, **options))

    run = location.materialize(**range_of(DAYS[0], DAYS[1]))

    assert (run.success, set(run.materialized)) == (True, {"labels_batch"})
    assert [request.partition_key for request in location.tick().run_requests] == [*DAYS[:2]]


def test_a_single_run_takes_each_partition_of_what_an_io_manager_loads(tmp_path, sandbox, store):
    @dg.asset(partitions_def=DAILY)
    def reviews(context: dg.AssetExecutionContext):
        return pd.DataFrame({"text": [f"Of {context.partition_key}."]})

    claude = ClaudeResource(base_url=sandbox.url, api_key="sandbox", store=str(store))
    files = dg.FilesystemIOManager(base_dir=str(tmp_path))
    shared = dg.Definitions(assets=[reviews], resources={"io_manager": files})
    labels = build_labels(upstream="reviews", partitions_def=DAILY, backfill_policy=dg.BackfillPolicy.single_run())
    with dg.DagsterInstance.ephemeral() as instance:
        location = Location(instance, claude, shared, labels)
        for day in DAYS[:2]:
            location.materialize("reviews", partition_key=day)
        assert location.materialize("labels_batch", **range_of(*DAYS[:2])).success

    assert [status.name for status in cp.list_jobs(store=store)] == [f"labels[{day}]" for day in DAYS[:2]]


def test_a_hundred_partitions_share_the_queue_and_go_wave_after_wave(slow_sandbox, locate, store):
    numbers = [f"{number:03}" for number in range(100)]
    table = pa.table({"part": numbers, "text": [f"Review {number}." for number in numbers]})
    location = locate(
        slow_sandbox,
        build_labels(
            source=table,
            partitions_def=dg.StaticPartitionsDefinition(numbers),
            partition_column="part",
            backfill_policy=dg.BackfillPolicy.single_run(),
            max_queued_requests=10,
            preflight=False,
        ),
    )
    location.materialize("labels_batch", **range_of("000", "099"))
    assert slow_sandbox.usage()["batches"] == 10
    assert not location.tick().run_requests

    slow_sandbox.advance_clock(3600)
    tick = location.tick()
    (first, *others) = tick.run_requests
    assert len(others) == 9
    assert location.run(first).materialized == ["labels"]
    assert slow_sandbox.usage()["batches"] == 20

    for _wave in range(8):
        slow_sandbox.advance_clock(3600)
        cp.advance(store=store, base_url=slow_sandbox.url)
    assert slow_sandbox.usage()["batches"] == 100
    slow_sandbox.advance_clock(3600)
    (request, *_) = [r for r in location.tick().run_requests if r.partition_key == "001"]
    assert location.run(request).success
    assert landed(location) == ["000", "001"]
    assert len(location.tick().run_requests) == 10


def test_a_partition_that_waits_for_room_is_sent_by_one_run_and_not_by_one_each(slow_sandbox, locate):
    numbers = [str(number) for number in range(5)]
    table = pa.table({"part": numbers, "text": numbers})
    options = {"partitions_def": dg.StaticPartitionsDefinition(numbers), "partition_column": "part"}
    location = locate(slow_sandbox, build_labels(source=table, max_queued_requests=1, **options))
    for number in numbers:
        location.materialize("labels_batch", partition_key=number)
    assert slow_sandbox.usage()["batches"] == 1
    slow_sandbox.advance_clock(3600)

    tick = location.tick()

    assert [request.partition_key for request in tick.run_requests] == ["0"]
    assert location.run(*tick.run_requests).materialized == ["labels"]
    assert slow_sandbox.usage()["batches"] == 2


def test_the_answers_of_a_partition_before_anything_was_submitted_for_it(sandbox, locate):
    location = locate(sandbox, build_labels(source=REVIEWS, partitions_def=DAILY, partition_column="day"))
    location.materialize("labels_batch", partition_key=DAYS[0])

    run = location.materialize("labels", partition_key=DAYS[1])

    assert run.reason == "Nothing was submitted for 2026-11-02 yet. Materialize labels_batch first."


def test_the_folder_of_the_answers_may_be_given(sandbox, locate, tmp_path):
    options = {"partitions_def": DAILY, "partition_column": "day", "output_path": tmp_path}
    location = locate(sandbox, build_labels(source=REVIEWS, **options))

    said = location.materialize(partition_key=DAYS[1]).metadata()

    assert said["dagster/uri"] == (tmp_path / "2026-11-02.parquet").as_uri()
    assert pq.read_metadata(tmp_path / "2026-11-02.parquet").num_rows == 2


def test_a_partition_that_is_gone_holds_up_no_other_and_is_said(slow_sandbox, locate):
    options = {"source": REVIEWS, "partition_column": "shop"}
    both = dg.StaticPartitionsDefinition(["A/B", "south"])
    location = locate(slow_sandbox, build_labels(**options, partitions_def=both))
    for shop in ("A/B", "south"):
        location.materialize("labels_batch", partition_key=shop)
    slow_sandbox.advance_clock(3600)
    renamed = locate(slow_sandbox, build_labels(**options, partitions_def=dg.StaticPartitionsDefinition(["south"])))

    tick = renamed.tick()
    renamed.run(*tick.run_requests)

    assert [request.partition_key for request in tick.run_requests] == ["south"]
    assert "'A/B' is no partition any more" in renamed.tick().skip_message


REQUEST = {"key": "labels", "template": "{text}", "model": "claude-haiku-4-5", "max_tokens": 16}


def test_a_partitioned_source_without_its_column_would_be_paid_for_by_every_partition():
    with pytest.raises(cp.InputError, match=r"partitioned source= needs partition_column=.* send the whole table"):
        build_batch_defs(**REQUEST, source="reviews.csv", partitions_def=DAILY)


def test_a_partition_column_without_partitions():
    with pytest.raises(cp.InputError, match=r"partition_column is 'day', but there are no partitions"):
        build_batch_defs(**REQUEST, source="reviews.csv", partition_column="day")


def test_partitions_of_two_dimensions_do_not_go_by_one_column():
    both = dg.MultiPartitionsDefinition({"day": DAILY, "shop": dg.StaticPartitionsDefinition(["south"])})
    with pytest.raises(cp.InputError, match=r"partitions of one dimension"):
        build_batch_defs(**REQUEST, source="reviews.csv", partitions_def=both, partition_column="day")


def test_an_upstream_asset_without_partitions_is_refused_before_anything_is_sent(sandbox, locate):
    @dg.asset
    def reviews():
        return REVIEWS

    shared = dg.Definitions(assets=[reviews])
    location = locate(sandbox, shared, build_labels(upstream="reviews", partitions_def=DAILY))
    location.materialize("reviews")

    run = location.materialize("labels_batch", partition_key=DAYS[0])

    assert run.reason.startswith("reviews has no partitions, so every partition would send all of it, and pay for it.")
    assert sandbox.usage()["batches"] == 0

    location = locate(sandbox, shared, build_labels(upstream="reviews", partitions_def=DAILY, partition_column="day"))
    assert location.materialize("labels_batch", partition_key=DAYS[1]).metadata(LABELS_BATCH)["claude/rows"] == 2


@pytest.mark.parametrize(
    ("column", "partition", "sentence"),
    [
        ("date", "2026-11-01", "No column 'date' in the table. It has: day, shop, text."),
        ("day", "2026-11-04", "No row of the table is of partition '2026-11-04': column 'day' has 2026-11-01, 2026-"),
        ("shop", "2026-11-01", "No row of the table is of partition '2026-11-01': column 'shop' has A/B, south …"),
    ],
)
def test_a_table_without_rows_of_the_partition(sandbox, locate, column, partition, sentence):
    location = locate(sandbox, build_labels(source=REVIEWS, partitions_def=DAILY, partition_column=column))

    run = location.materialize("labels_batch", partition_key=partition)

    assert not run.success
    assert sentence.replace("the table", "the Arrow table") in run.reason.replace("the table", "the Arrow table")
    assert sandbox.usage()["batches"] == 0


MOMENTS = [datetime(2026, 11, 1, hour, tzinfo=UTC) for hour in (3, 4, 23)]


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([date(2026, 10, 31), date(2026, 11, 1), date(2026, 11, 2)], pa.date32(), [1]),
        (MOMENTS, pa.timestamp("us", "UTC"), [1, 2]),  # New York's first of November begins at 4 and lasts 25 hours
        (MOMENTS, pa.timestamp("ms", "Asia/Tokyo"), [1, 2]),
        ([datetime(2026, 11, 1, 0, 0), datetime(2026, 10, 31, 23, 59)], pa.timestamp("us"), [0]),  # noqa: DTZ001
        (["2026-11-01", "2026-11-01T04:00", None], pa.string(), [0]),
        (["2026-10-31", "2026-11-01"], pa.dictionary(pa.int32(), pa.string()), [1]),
    ],
)
def test_rows_belong_to_the_day_on_the_calendar_of_the_partitions(values, kind, expected):
    partitions = dg.DailyPartitionsDefinition("2026-10-01", timezone="America/New_York")
    table = pa.table({"at": pa.array(values).cast(kind), "row": range(len(values))})
    shifted = Slices(table, "at", partitions).of("2026-11-01")

    rows = pa.Table.from_batches(shifted.batches, shifted.schema)["row"].to_pylist()

    assert rows == expected
