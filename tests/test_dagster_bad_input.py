"""What goes wrong in Dagster is said in one sentence, where the user looks: the failure of the step, or the load."""

import dagster as dg
import pandas as pd
import pytest
from locations import REVIEWS, Location, asset_of, build_labels

import claude_pipeline as cp
from claude_pipeline.dagster import Checks, ClaudeResource, build_batch_defs

SECRET = "sk-ant-a-key-that-nobody-may-see"


@pytest.fixture
def instance():
    """Keep runs and events in memory."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def locate(sandbox, store, instance):
    """Open a code location whose batches go to the sandbox; no event of a run may tell the key."""
    claude = ClaudeResource(base_url=sandbox.url, api_key=SECRET, store=str(store))
    yield lambda *definitions: Location(instance, claude, *definitions)
    told = [str(entry) for run in instance.get_runs() for entry in instance.all_logs(run.run_id)]
    assert told
    assert not any(SECRET in entry for entry in told)


def test_answers_before_anything_was_submitted(locate):
    run = locate(build_labels()).materialize("labels")

    assert (run.success, run.reason) == (False, "Nothing was submitted yet. Materialize labels_batch first.")


def test_a_submission_that_was_only_marked_as_materialized(locate):
    location = locate(build_labels())
    location.instance.report_runless_asset_event(dg.AssetMaterialization("labels_batch"))

    run = location.materialize("labels")

    assert (run.success, run.reason) == (False, "Nothing was submitted yet. Materialize labels_batch first.")


def test_a_store_that_this_machine_does_not_have(locate, sandbox, tmp_path):
    here = locate(build_labels())
    here.materialize("labels_batch")
    elsewhere = ClaudeResource(base_url=sandbox.url, store=str(tmp_path / "elsewhere"))
    there = Location(here.instance, elsewhere, build_labels())
    (status,) = cp.list_jobs(store=here.claude.store_path())

    run, tick = there.materialize("labels"), there.tick()

    assert run.reason.startswith(f"{status.job_id}, which labels_batch submitted, is not in the store {tmp_path}/else")
    assert run.reason.endswith("Run this where that store is, or point ClaudeResource(store=…) to it.")
    assert (tick.run_requests or [], tick.skip_message) == ([], run.reason)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (
            pd.DataFrame({"id": [1], "body": ["x"]}),
            "The template's field {text} is no column of the DataFrame. It has: id, body.",
        ),
        (REVIEWS.slice(0, 0), "has no rows"),
        (None, "None"),
        ([], "The list of files is empty."),
        ("missing.parquet", "missing.parquet"),
    ],
)
def test_an_upstream_value_that_cannot_be_asked(locate, value, sentence):
    run = locate(asset_of(value), build_labels(upstream="reviews")).materialize()

    assert not run.success
    assert run.materialized in ([], ["reviews"])
    assert sentence in run.reason


def test_no_credentials_fail_before_the_upstream_table_is_loaded(instance, store):
    loaded = []

    class Loader(dg.InMemoryIOManager):
        def load_input(self, context):
            loaded.append(context.asset_key)
            return super().load_input(context)

    upstream = dg.Definitions(assets=asset_of(REVIEWS).assets, resources={"io_manager": Loader()})
    location = Location(instance, ClaudeResource(store=str(store)), upstream, build_labels(upstream="reviews"))

    run = location.materialize()

    assert (run.success, run.materialized, loaded) == (False, [], [])
    assert not store.exists()
    (failure,) = [event for event in run.result.all_events if event.is_failure]
    assert failure.event_specific_data.error.message.endswith(
        "No credentials for the Anthropic API. Set ANTHROPIC_API_KEY where runs are executed, "
        "or pass api_key= to ClaudeResource.\n"
    )


def test_a_tick_without_credentials_is_a_skip_with_the_reason(locate, instance, store):
    locate(build_labels()).materialize("labels_batch")
    location = Location(instance, ClaudeResource(store=str(store)), build_labels())

    tick = location.tick()

    assert not tick.run_requests
    assert tick.skip_message.startswith("No credentials for the Anthropic API.")


def test_a_job_of_another_account(locate):
    location = locate(build_labels())
    with cp.Sandbox(workspace="wrkspc_2", batch_seconds=3600) as theirs:
        claude = ClaudeResource(base_url=theirs.url, api_key="theirs", store=location.claude.store)
        Location(location.instance, claude, build_labels()).materialize("labels_batch")
        (status,) = cp.list_jobs(store=location.claude.store_path())

        run = location.materialize("labels")

    assert run.reason == (
        f"{status.job_id} belongs to account 'wrkspc_2', but this client acts for 'sandbox'. "
        "Use the API key or base URL it was submitted with."
    )


def test_credentials_that_the_api_refuses(locate, sandbox):
    sandbox.fail_next("list", 401)

    run = locate(build_labels()).materialize("labels_batch")

    assert not run.success
    assert "401" in run.reason


def test_two_builders_with_one_key_do_not_load():
    with pytest.raises(dg.DagsterInvalidDefinitionError, match=r"Duplicate asset key: .*labels"):
        dg.Definitions.validate_loadable(
            dg.Definitions.merge(
                build_labels(),
                build_labels(template="Topic: {text}"),
                dg.Definitions(resources={"claude": ClaudeResource()}),
            )
        )


REQUEST = {"key": "labels", "template": "{text}", "model": "claude-haiku-4-5", "max_tokens": 16}


@pytest.mark.parametrize("sources", [{}, {"source": "reviews.csv", "upstream": "reviews"}])
def test_both_or_neither_of_source_and_upstream(sources):
    with pytest.raises(cp.InputError, match=r"one of source= and upstream=, and only one\.$"):
        build_batch_defs(**REQUEST, **sources)


@pytest.mark.parametrize(
    "argument", [{"modle": "x"}, {"name": "x"}, {"store": "x"}, {"client": None}, {"base_url": "x"}]
)
def test_arguments_that_are_not_of_a_request(argument):
    with pytest.raises(TypeError, match=next(iter(argument))):
        build_batch_defs(**REQUEST, source="reviews.csv", **argument)


def test_a_request_without_a_model():
    request = {name: value for name, value in REQUEST.items() if name != "model"}

    with pytest.raises(TypeError, match="model"):
        build_batch_defs(**request, source="reviews.csv")


@pytest.mark.parametrize("share", [-0.1, 95])
@pytest.mark.parametrize("name", ["min_succeeded", "max_truncated", "max_refused", "min_valid"])
def test_a_share_that_is_none(share, name):
    with pytest.raises(ValueError, match=rf"{name}\n  Input should be (greater|less) than or equal to"):
        Checks(**{name: share})


def test_a_check_that_there_is_not():
    with pytest.raises(ValueError, match=r"errors\.0\n  Input should be 'succeeded', 'truncated', 'refused'"):
        Checks(errors=["succeded"])


def test_an_output_path_that_is_not_parquet():
    with pytest.raises(
        cp.OutputError, match=r"are Parquet, but output_path is 'labels\.csv'\. Name a file that ends in \.parquet\.$"
    ):
        build_batch_defs(**REQUEST, source="reviews.csv", output_path="labels.csv")


def test_an_output_path_in_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(cp.OutputError, match=r"There is no folder .* to write labels\.parquet to"):
        build_batch_defs(**REQUEST, source="reviews.csv", output_path=tmp_path / "missing" / "labels.parquet")
