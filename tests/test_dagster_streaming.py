"""Assets whose answers are there when their run is: streamed, or streamed as long as the table is small."""

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from locations import LABELS, LABELS_BATCH, REVIEWS, Location, asset_of, build_labels
from streams import asked_messages, echo
from test_dagster_component import loaded

import claude_pipeline as cp
from claude_pipeline.dagster import Checks, ClaudeResource, build_batch_defs, build_stream_asset

ASKED = {"key": "labels", "template": "{text}", "model": "claude-haiku-4-5", "max_tokens": 16}


@pytest.fixture
def sandbox():
    with cp.Sandbox(answer=echo) as server:
        yield server


@pytest.fixture
def claude(sandbox, store):
    return ClaudeResource(base_url=sandbox.url, api_key="sandbox", store=str(store))


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def stream_labels(**options):
    if "upstream" not in options:
        options.setdefault("source", REVIEWS)
    return dg.Definitions(assets=[build_stream_asset(**ASKED | options)])


def test_a_small_table_is_answered_within_the_run_with_its_page_and_its_checks(instance, claude, sandbox):
    run = Location(instance, claude, stream_labels(checks=Checks(max_truncated=0.5))).materialize()
    assert run.materialized == ["labels"]
    assert pq.read_table(claude.answers_path("labels"))["response"].to_pylist() == REVIEWS["text"].to_pylist()
    page = run.metadata()
    assert page["dagster/row_count"] == 6
    assert page["claude/streamed"] == 6
    assert 0 < page["claude/seconds_to_first_token_p50"] <= page["claude/seconds_to_first_token_p95"]
    assert page["claude/tokens_per_second"] > 0
    assert page["claude/cost_usd"] > 0
    assert "data:image/svg+xml" in page["first token"]
    assert len(page["first token"]) < 1000
    assert "Review 0" in page["preview"]
    assert {name for name, check in run.checks.items() if check.passed} == set(run.checks)
    assert len(asked_messages(sandbox)) == 6
    assert sandbox.usage()["batches"] == 0


def test_again_with_the_same_table_it_is_free(instance, claude, sandbox):
    location = Location(instance, claude, stream_labels())
    location.materialize()
    page = location.materialize().metadata()
    assert page["claude/streamed"] == 0
    assert len(asked_messages(sandbox)) == 6


def test_each_row_is_a_line_of_the_log(instance, claude, capfd):
    Location(instance, claude, stream_labels()).materialize()
    said = capfd.readouterr().err
    assert "s to the first token): Review 3. It goes on." in said


def test_a_table_that_is_too_large_is_refused_before_anything_is_asked(instance, claude, sandbox):
    run = Location(instance, claude, stream_labels(max_rows=5)).materialize()
    assert not run.success
    assert "has 6 rows, but max_rows is 5: nothing was asked" in run.reason
    assert "as a batch" in run.reason
    assert asked_messages(sandbox) == []
    assert cp.list_jobs(store=claude.store_path()) == []


def test_a_table_of_another_asset_is_streamed_and_a_frame_is_handed_on(instance, claude):
    @dg.asset
    def shouted(labels):
        return labels["response"].str.upper().tolist()

    shout = dg.Definitions(assets=[shouted])
    streamed = stream_labels(upstream="reviews", io_manager_key="io_manager", limit=2)
    run = Location(instance, claude, asset_of(REVIEWS.to_pandas()), streamed, shout).materialize()
    assert run.success
    assert run.result.output_for_node("shouted") == ["REVIEW 0. IT GOES ON.", "REVIEW 1. IT GOES ON."]


def test_the_trouble_of_a_row_is_a_check_that_fails_and_of_the_account_a_run_that_does(instance, claude, sandbox):
    sandbox.fail_next("messages", 400)
    location = Location(instance, claude, stream_labels())
    run = location.materialize()
    assert run.success
    assert not run.checks["succeeded"].passed
    sandbox.fail_next("messages", 401)
    assert "401" in Location(instance, claude, stream_labels(salt="new")).materialize().reason


@pytest.mark.parametrize("rows", [3, 6])
def test_auto_streams_what_is_small_and_sends_the_rest_as_batches(instance, claude, sandbox, rows):
    location = Location(instance, claude, build_labels(mode="auto", max_rows=3, template="{text}", limit=rows))
    run = location.materialize()
    assert run.materialized == ["labels_batch", "labels"]
    assert pq.read_table(claude.answers_path("labels")).num_rows == rows
    assert ("claude/streamed" in run.metadata(LABELS_BATCH)) is (rows == 3)
    assert len(asked_messages(sandbox)) == (3 if rows == 3 else 0)
    assert sandbox.usage()["batches"] == (0 if rows == 3 else 1)


def test_answers_that_were_streamed_alone_are_landed_by_the_sensor(instance, claude):
    location = Location(instance, claude, build_labels(mode="auto", template="{text}"))
    assert location.materialize(LABELS_BATCH).materialized == ["labels_batch"]
    landed = location.look()
    assert landed.materialized == ["labels"]
    assert landed.metadata(LABELS)["dagster/row_count"] == 6


@pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore:`parse_obj_as` is deprecated")
def test_streaming_in_yaml(instance, claude, sandbox):
    asked = {"key": "labels", "source": "reviews.parquet", "template": "{text}", "model": "claude-haiku-4-5"}
    with loaded({**asked, "max_tokens": 16, "mode": "stream", "max_rows": 6}) as (folder, _, defs):
        pq.write_table(REVIEWS, folder / "reviews.parquet")
        assert Location(instance, claude, defs).materialize().materialized == ["labels"]
        assert len(asked_messages(sandbox)) == 6
        pq.write_table(pa.concat_tables([REVIEWS, REVIEWS]), folder / "reviews.parquet")
        assert "max_rows is 6" in Location(instance, claude, defs).materialize().reason


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"source": None}, cp.InputError, "one of source= and upstream="),
        ({"upstream": "reviews", "source": REVIEWS}, cp.InputError, "one of source= and upstream="),
        ({"prime_cache": True}, TypeError, "build_stream_asset has no argument 'prime_cache'"),
        ({"on_text": print}, TypeError, "build_stream_asset has no argument 'on_text'"),
    ],
)
def test_what_a_stream_does_not_take_is_refused_when_it_is_defined(options, error, message):
    with pytest.raises(error, match=message):
        build_stream_asset(**ASKED | {"source": REVIEWS} | options)


def test_asking_again_in_batches_does_not_go_with_auto():
    with pytest.raises(cp.InputError, match="mode='auto' leave them out"):
        build_batch_defs(**ASKED, source=REVIEWS, mode="auto", on_truncated="retry")
