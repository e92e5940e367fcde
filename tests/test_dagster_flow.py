"""From a table to its answers in Dagster: what is materialized when, and what the pages say."""

import json
import re
import subprocess
import sys
from base64 import b64decode
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import dagster as dg
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from locations import LABELS, LABELS_BATCH, REPORT, REVIEWS, Location, asset_of, build_labels, report

import claude_pipeline as cp
from claude_pipeline.dagster import ClaudeResource
from claude_pipeline.dagster.metadata import submission_metadata
from claude_pipeline.dagster.pictures import histogram


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


def table_of(path):
    """Read answers, the columns alone that the tests look at."""
    return pq.read_table(path, columns=["id", "response", "result_type"]).to_pylist()


ANSWERED = [{"id": n, "response": f"Label: Review {n}.", "result_type": "succeeded"} for n in range(6)]


def test_materialize_all_submits_stays_green_and_skips_what_must_wait_and_the_sensor_does_the_rest(slow_sandbox, store):
    claude = ClaudeResource(base_url=slow_sandbox.url, api_key="sandbox", store=str(store))
    with dg.instance_for_test() as instance:
        location = Location(instance, claude, asset_of(REVIEWS), build_labels(upstream="reviews"), REPORT)

        first = location.materialize()
        waiting = location.tick()
        slow_sandbox.advance_clock(3600)
        second = location.look()

        assert (first.success, first.materialized) == (True, ["reviews", "labels_batch"])
        assert "report" in first.skipped
        assert not waiting.run_requests
        assert (second.success, second.materialized) == (True, ["labels"])
        assert {name: check.passed for name, check in second.checks.items()} == dict.fromkeys(
            ("every_row_once", "succeeded", "truncated", "refused"), True
        )
        assert table_of(claude.answers_path("labels")) == ANSWERED
        assert "materialized" in location.tick().skip_message


@pytest.mark.filterwarnings("ignore:Parameter `include_sources`")  # of Dagster's own evaluate_automation_conditions
def test_what_is_downstream_and_eager_is_requested_once_the_answers_are_there(slow_sandbox, locate):
    location = locate(slow_sandbox, build_labels(), REPORT)
    location.materialize()
    before = dg.evaluate_automation_conditions(location.defs, instance=location.instance)
    slow_sandbox.advance_clock(3600)
    location.look()

    after = dg.evaluate_automation_conditions(location.defs, instance=location.instance, cursor=before.cursor)

    assert (before.get_num_requested(report.key), after.get_num_requested(report.key)) == (0, 1)


def test_the_sensors_run_without_being_started_and_two_tables_share_the_one_for_what_is_downstream(sandbox, locate):
    location = locate(sandbox, build_labels(), build_labels(key="topics"), REPORT)

    dg.Definitions.validate_loadable(location.defs)

    sensors = location.defs.get_repository_def().sensor_defs
    assert {sensor.name for sensor in sensors} == {"labels_sensor", "topics_sensor", "claude_automation"}
    assert {sensor.default_status for sensor in sensors} == {dg.DefaultSensorStatus.RUNNING}


def test_two_tables_in_one_store_do_not_touch_each_other(slow_sandbox, locate):
    location = locate(slow_sandbox, build_labels(), build_labels(key="topics", template="Topic: {text}"))
    location.materialize()
    slow_sandbox.advance_clock(3600)

    assert location.look().materialized == ["labels"]
    assert location.instance.get_latest_materialization_event(dg.AssetKey("topics")) is None
    assert len(location.tick("topics_sensor").run_requests) == 1


def test_the_submission_says_what_was_asked(slow_sandbox, locate, store):
    twice = pa.concat_tables([REVIEWS, REVIEWS.slice(0, 1), pa.table({"id": [9], "text": [""]})])
    run = locate(slow_sandbox, build_labels(source=twice, prompt_column="text", template=None)).materialize(
        "labels_batch"
    )

    said = run.metadata(LABELS_BATCH)
    (status,) = cp.list_jobs(store=store)
    assert said["claude/job_id"] == status.job_id
    assert said["claude/store"] == str(store)
    counted = {name: said[f"claude/{name}"] for name in ("rows", "requests", "duplicates", "skipped", "batches")}
    assert counted == {"rows": 8, "requests": 6, "duplicates": 1, "skipped": 1, "batches": 1}


def test_the_answers_say_where_and_what_they_are_and_what_they_cost(locate):
    def fail_one(_custom_id, params, _attempt):
        return "invalid_request_error" if "Review 3." in params["messages"][0]["content"] else None

    with cp.Sandbox(rows=fail_one) as sandbox:
        location = locate(sandbox, build_labels(source=REVIEWS.append_column("note", pa.array(["a|b"] * 6))))
        said = location.materialize().metadata()

    path = location.claude.answers_path("labels")
    written = pq.read_table(path)
    assert said["dagster/uri"] == path.as_uri()
    assert said["dagster/row_count"] == 6
    columns = [(column.name, column.type) for column in said["dagster/column_schema"].columns]
    assert columns == [(field.name, str(field.type)) for field in written.schema]
    kinds = {name: said[f"claude/rows_{name}"] for name in ("succeeded", "errored", "canceled", "expired", "not_sent")}
    assert kinds == {"succeeded": 5, "errored": 1, "canceled": 0, "expired": 0, "not_sent": 0}
    assert said["claude/input_tokens"] == sum(filter(None, written["input_tokens"].to_pylist()))
    assert said["claude/output_tokens"] == sum(filter(None, written["output_tokens"].to_pylist()))
    assert said["claude/cost_usd"] == pytest.approx(sum(filter(None, written["cost_usd"].to_pylist())))
    assert said["claude/unanswered"] == 1


def test_the_answers_say_what_they_are_made_of(sandbox, locate):
    labels = build_labels(upstream="reviews", template="Label: {text}", system="Shop {id}.")
    said = (
        locate(sandbox, asset_of(REVIEWS.append_column("note", pa.array(["x"] * 6))), labels).materialize().metadata()
    )

    lineage = said["dagster/column_lineage"].deps_by_column
    reviews = dg.AssetKey("reviews")
    assert lineage["response"] == [dg.TableColumnDep(reviews, "id"), dg.TableColumnDep(reviews, "text")]
    assert lineage["note"] == [dg.TableColumnDep(reviews, "note")]
    columns = {column.name: column for column in said["dagster/column_schema"].columns}
    assert columns["cost_usd"].description.startswith("Dollars, on the row that paid")
    assert all(columns[name].description for name in columns.keys() - {"id", "text", "note"})


def test_a_file_that_is_no_asset_has_no_lineage(sandbox, locate):
    assert "dagster/column_lineage" not in locate(sandbox, build_labels()).materialize().metadata()


def test_the_answers_say_how_they_ended_how_long_they_are_and_how_long_they_took(slow_sandbox, locate):
    location = locate(slow_sandbox, build_labels(max_batch_requests=3))
    location.materialize("labels_batch")
    slow_sandbox.advance_clock(3600)
    said = location.look().metadata()

    stops = {name: said[f"claude/stop_reason_{name}"] for name in ("end_turn", "max_tokens", "refusal")}
    assert stops == {"end_turn": 6, "max_tokens": 0, "refusal": 0}
    assert said["claude/elapsed_seconds"] == pytest.approx(3600, abs=60)
    picture = said["length of answers"]
    assert len(picture) < 1000
    assert picture.startswith("![6 answers: ")
    svg = b64decode(picture.partition("base64,")[2].removesuffix(")")).decode()
    assert ET.fromstring(svg).tag.endswith("svg")


def test_batches_are_links_to_the_console_as_many_as_the_page_shows(slow_sandbox, locate, store):
    location = locate(slow_sandbox, build_labels(max_batch_requests=3))
    said = location.materialize("labels_batch").metadata(LABELS_BATCH)
    (status,) = cp.list_jobs(store=store)

    lines = said["batches"].splitlines()
    assert lines == [
        f"- [{batch.batch_id}](https://platform.claude.com/settings/workspaces/default/batches) 3 requests, in progress"
        for batch in status.batches
    ]
    many = replace(status, batches=status.batches * 50)
    shown = submission_metadata(many, store)["batches"].value
    assert len(shown) < 1000
    assert re.search(r"- and \d+ more$", shown)


@pytest.mark.parametrize("lengths", [[], [7], [3, 3, 4], range(1000), [0, 10**9]])
def test_a_picture_of_any_lengths_fits_the_page(lengths):
    picture = histogram(np.array(lengths, dtype=np.int64), "output tokens")

    assert (picture is None) == (not len(lengths))
    assert picture is None or len(picture) < 1000


def test_before_the_end_one_line_says_when_it_was_sent_and_how_far_it_is(slow_sandbox, locate):
    location = locate(slow_sandbox, build_labels(max_batch_requests=2, max_queued_requests=2))
    location.materialize("labels_batch")
    slow_sandbox.advance_clock(3600)

    run = location.materialize("labels")

    assert (run.success, run.materialized) == (True, [])
    told = [entry.user_message for entry in location.instance.all_logs(run.result.run_id)]
    (said,) = [words for words in told if "was submitted" in words]
    assert re.search(r"submitted \d{4}-\d\d-\d\d \d\d:\d\d UTC, and 2 of 6 requests have come to a result", said)
    assert said.endswith("The sensor materializes labels when all have.")


def test_the_preview_is_a_table_that_the_page_shows_inline_whatever_the_cells_hold(locate):
    wild = "![](x) <b>*b*\n\n| `c` \\ " + "long " * 500
    table = pa.table({"id": range(9), "a|b": [wild] * 9, "text": [f"{number} {wild}" for number in range(9)]})
    with cp.Sandbox(answer=lambda params: params["messages"][0]["content"]) as sandbox:
        location = locate(sandbox, build_labels(source=table, prompt_column="text", template=None))
        preview = location.materialize().metadata()["preview"]

    assert len(preview) < 1000
    lines = preview.splitlines()
    assert len(lines) == 7
    assert {line.replace("\\|", "").count("|") for line in lines} == {lines[1].count("|")}
    assert r"!\[\](x) \<b\>\*b\*" in preview


def test_columns_with_names_too_long_for_the_page_are_cut_in_the_preview(sandbox, locate):
    table = pa.table({"x" * 2000: ["a"], "text": ["b"]})
    location = locate(sandbox, build_labels(source=table))

    preview = location.materialize().metadata()["preview"]

    assert len(preview) < 1000
    assert "| response | xxx" in preview


@pytest.mark.parametrize("kind", ["pandas", "arrow", "polars", "path"])
def test_the_upstream_asset_may_be_any_table_or_a_path(sandbox, locate, tmp_path, kind):
    path = tmp_path / "reviews.parquet"
    pq.write_table(REVIEWS, path)
    rows = REVIEWS.to_pydict()
    value = {"pandas": pd.DataFrame(rows), "arrow": REVIEWS, "polars": pl.DataFrame(rows), "path": str(path)}[kind]
    location = locate(sandbox, asset_of(value), build_labels(upstream="reviews"))

    assert location.materialize().success

    assert table_of(location.claude.answers_path("labels")) == ANSWERED


def test_the_submission_job_materializes_the_upstream_table_and_submits_it(slow_sandbox, locate):
    location = locate(slow_sandbox, asset_of(REVIEWS), build_labels(upstream="reviews"))

    result = location.defs.resolve_job_def("labels_submit_job").execute_in_process(instance=location.instance)

    assert {event.asset_key.to_user_string() for event in result.get_asset_materialization_events()} == {
        "reviews",
        "labels_batch",
    }


class Shelf(dg.IOManager):
    """Keep what it is given."""

    def __init__(self):
        self.given = {}

    def handle_output(self, context, obj):
        self.given[context.asset_key] = obj

    def load_input(self, context):
        return self.given[context.asset_key]


def test_an_io_manager_is_handed_the_answers_as_a_dataframe(sandbox, locate):
    @dg.asset
    def count(labels: pd.DataFrame):
        return len(labels)

    shelf = Shelf()
    shared = dg.Definitions(assets=[count], resources={"shelf": shelf})
    location = locate(sandbox, build_labels(io_manager_key="shelf"), shared)

    run = location.materialize("labels_batch", "labels")

    assert run.metadata()["dagster/row_count"] == 6
    assert shelf.given[LABELS][["id", "response", "result_type"]].to_dict("records") == ANSWERED
    assert location.materialize("count").result.output_for_node("count") == 6


def test_an_io_manager_is_handed_nothing_while_batches_run(slow_sandbox, locate):
    shelf = Shelf()
    resources = dg.Definitions(resources={"shelf": shelf})
    location = locate(slow_sandbox, build_labels(io_manager_key="shelf"), resources)

    assert location.materialize().success
    assert shelf.given == {}


def test_the_answers_are_written_to_the_path_that_was_given(sandbox, locate, tmp_path):
    path = tmp_path / "labeled.parquet"
    location = locate(sandbox, build_labels(output_path=path))

    assert location.materialize().metadata()["dagster/uri"] == path.as_uri()
    assert table_of(path) == ANSWERED
    assert not location.claude.answers_path("labels").exists()


def test_the_columns_of_the_answers_may_have_a_prefix(sandbox, locate):
    location = locate(sandbox, build_labels(prefix="claude_"))

    said = location.materialize().metadata()

    assert said["claude/rows_succeeded"] == 6
    assert "| claude_response | id |" in said["preview"]


def test_a_key_may_have_several_parts(sandbox, locate):
    location = locate(sandbox, build_labels(key=["reviews", "labels"], group_name="reviews"))
    assert location.materialize(["reviews", "labels_batch"]).success

    (request,) = location.tick("reviews__labels_sensor").run_requests
    result = location.defs.resolve_job_def("reviews__labels_collect_job").execute_in_process(
        instance=location.instance, tags=request.tags
    )

    (event,) = result.get_asset_materialization_events()
    assert event.asset_key == dg.AssetKey(["reviews", "labels"])
    assert table_of(Path(event.materialization.metadata["dagster/uri"].value.removeprefix("file://"))) == ANSWERED


def test_submitting_the_same_table_again_materializes_at_once_and_sends_nothing(sandbox, locate):
    location = locate(sandbox, build_labels())
    location.materialize()
    spent = sandbox.usage()

    run = location.materialize()

    assert run.materialized == ["labels_batch", "labels"]
    assert sandbox.usage() == spent
    assert not location.tick().run_requests


PURE = """
import socket, sys
def refuse(*arguments): raise RuntimeError("a definition opened a socket")
socket.socket.connect = socket.socket.bind = socket.getaddrinfo = refuse
import dagster as dg
from claude_pipeline.dagster import ClaudeResource, build_batch_defs
labels = build_batch_defs(key="labels", source="x.csv", template="{text}", model="claude-haiku-4-5", max_tokens=9)
defs = dg.Definitions.merge(labels, dg.Definitions(resources={"claude": ClaudeResource()}))
dg.Definitions.validate_loadable(defs)
print([name for name in ("anthropic", "pandas", "starlette", "uvicorn") if name in sys.modules])
"""


def test_definitions_load_neither_the_sdk_nor_the_network_nor_need_credentials(tmp_path):
    command = [sys.executable, "-c", PURE]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    assert (result.stderr, result.stdout.strip()) == ("", "[]")
    assert list(tmp_path.iterdir()) == []


LOADING = """
import socket
def refuse(*arguments): raise RuntimeError("loading the code location opened a socket")
socket.socket.connect = socket.socket.bind = socket.getaddrinfo = refuse
import dagster as dg
from dagster_defs.definitions import defs
dg.Definitions.validate_loadable(defs)
print(sorted(job.name for job in defs.get_repository_def().get_all_jobs() if job.name.endswith("submit_job")))
"""


def test_the_code_location_with_yaml_and_partitions_loads_without_network(tmp_path):
    root = Path(__file__).parent.parent
    command = [sys.executable, "-c", LOADING]
    environment = {"PATH": "", "HOME": str(tmp_path), "PYTHONPATH": str(root), "DAGSTER_DISABLE_TELEMETRY": "1"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)

    assert result.stdout.strip() == "['levels_submit_job', 'questions_submit_job', 'summaries_submit_job']", (
        result.stderr
    )
    assert list(tmp_path.iterdir()) == []


def test_what_makes_a_row_a_request_is_what_it_is_everywhere(locate, store, sandbox):
    chat = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Yes?"}]
    table = pd.DataFrame({"chat": [chat], "question": ["Why?"], "model": ["claude-opus-5-5"]})
    labels = build_labels(
        upstream="reviews",
        messages_column="chat",
        template="{question}",
        system="Be brief.",
        model=None,
        params_columns={"model": "model"},
        max_cost_usd=1,
    )
    location = locate(sandbox, asset_of(table), labels)
    assert location.materialize().materialized == ["reviews", "labels_batch", "labels"]
    (request,) = sandbox.requests()
    params = json.loads(request.params)
    assert params["messages"] == [*chat, {"role": "user", "content": "Why?"}]
    assert (params["model"], params["system"]) == ("claude-opus-5-5", "Be brief.")
    assert cp.list_jobs(store=store)[0].unanswered == 0
