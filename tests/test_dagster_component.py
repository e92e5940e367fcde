"""The YAML door: what it says is what the builder is called with, and what is wrong has a file, a line and a mend."""

import subprocess
import sys
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from dagster.components.testing import create_defs_folder_sandbox
from locations import REVIEWS, Location

import claude_pipeline as cp
from claude_pipeline.dagster import BatchComponent, ClaudeResource, build_batch_defs

TYPE = "claude_pipeline.dagster.BatchComponent"
REQUEST = {"template": "Label: {text}", "model": "claude-haiku-4-5", "max_tokens": 16}
LABELS = {"key": "labels", "source": "reviews.parquet", **REQUEST}
pytestmark = [  # of Dagster's own
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    pytest.mark.filterwarnings("ignore:`parse_obj_as` is deprecated"),
]


@contextmanager
def loaded(attributes, **files):
    """Load a component whose folder holds these files."""
    with create_defs_folder_sandbox() as project:
        folder = project.defs_folder_path / "labels"
        folder.mkdir()
        (folder / "defs.yaml").write_text(yaml.safe_dump({"type": TYPE, "attributes": attributes}))
        for name, content in files.items():
            (folder / name.replace("_", ".")).write_text(content)
        with project.load_component_and_build_defs(defs_path=folder) as (component, defs):
            yield folder, component, defs


def test_the_yaml_of_a_batch_defines_what_the_builder_does():
    with loaded(LABELS) as (_, component, defs):
        built = build_batch_defs(**LABELS)

    assert isinstance(component, BatchComponent)
    for of_kind in ("assets", "jobs", "sensors"):
        names = [
            sorted(str(getattr(d, "key", None) or d.name) for d in getattr(each, of_kind)) for each in (defs, built)
        ]
        assert names[0] == names[1]
    assert {str(check.key) for a in defs.assets for check in a.check_specs} == {
        str(check.key) for a in built.assets for check in a.check_specs
    }


def asset(defs, key):
    (found,) = [asset for asset in defs.assets for spec in asset.specs if spec.key.to_user_string() == key]
    return found


def test_answers_asked_for_in_yaml(sandbox, store):
    options = {"output_schema": {"label": "good|bad"}, "checks": {"min_valid": 0.5, "errors": ["schema_valid"]}}
    with (
        dg.DagsterInstance.ephemeral() as instance,
        loaded({**LABELS, **options, "minimum_interval_seconds": 0}) as (folder, _, defs),
    ):
        pq.write_table(REVIEWS, folder / "reviews.parquet")
        claude = ClaudeResource(base_url=sandbox.url, api_key="sandbox", store=str(store))
        run = Location(instance, claude, defs).materialize()

    assert run.materialized == ["labels_batch", "labels"]
    assert run.checks["schema_valid"].passed
    assert pq.read_table(claude.answers_path("labels"))["label"].combine_chunks().dictionary.to_pylist()


def test_every_option_of_the_builder_is_there_described_and_exemplified():
    schema = BatchComponent.model().model_json_schema()["properties"]
    taken = {*build_batch_defs.__kwdefaults__, "key", *cp.SubmitOptions.__optional_keys__}

    assert schema.keys() == taken
    assert [name for name, field in schema.items() if not (field.get("description") and field.get("examples"))] == []


def test_dagsters_own_options_in_yaml():
    options = {
        "key": "reviews/labels",
        "source": ["a.csv", "b.csv"],
        "partitions_def": {"type": "daily", "start_date": "2026-11-01", "timezone": "Europe/Zurich"},
        "partition_column": "day",
        "backfill_policy": "single_run",
        "retry_policy": {"max_retries": 2, "delay": 60},
        "automation_condition": "{{ dg.AutomationCondition.eager() }}",
        "freshness_policy": "{{ dg.FreshnessPolicy.time_window(fail_window=datetime.timedelta(hours=36)) }}",
        "owners": ["team:nlp"],
        "tags": {"domain": "reviews"},
        "group_name": "reviews",
        "pool": "anthropic",
        "params": {"thinking": {"type": "adaptive"}},
    }
    with loaded(REQUEST | options) as (folder, component, defs):
        batch, answers = asset(defs, "reviews/labels_batch"), asset(defs, "reviews/labels")

    assert component.source == [str(folder / "a.csv"), str(folder / "b.csv")]
    assert batch.partitions_def == dg.DailyPartitionsDefinition("2026-11-01", timezone="Europe/Zurich")
    assert batch.backfill_policy == dg.BackfillPolicy.single_run()
    assert batch.op.retry_policy == dg.RetryPolicy(max_retries=2, delay=60)
    (spec,), (answered,) = batch.specs, answers.specs
    assert spec.automation_condition.get_label() == "eager"
    assert answered.freshness_policy == dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=36))
    assert (spec.owners, spec.tags["domain"], spec.group_name, batch.op.pool) == (
        ["team:nlp"],
        "reviews",
        "reviews",
        "anthropic",
    )


def test_partitions_may_have_names_or_be_an_expression():
    names = {"type": "static", "partition_keys": ["1", "north"]}
    with loaded(LABELS | {"partitions_def": names, "partition_column": "shop"}) as (_, component, _):
        assert component.partitions_def.get_partition_keys() == ["1", "north"]
    expression = "{{ dg.MonthlyPartitionsDefinition(start_date='2026-11-01') }}"
    with loaded(LABELS | {"partitions_def": expression, "partition_column": "day"}) as (_, component, _):
        assert component.partitions_def == dg.MonthlyPartitionsDefinition("2026-11-01")


def test_the_page_of_an_asset_links_to_its_yaml():
    with loaded(LABELS) as (folder, _, defs):
        (spec,) = asset(defs, "labels").specs

    (reference,) = spec.metadata["dagster/code_references"].code_references
    assert (reference.file_path, reference.line_number) == (str(folder / "defs.yaml"), 1)


@pytest.mark.parametrize("wild", ["{{text}}", "{{ text }} and {other}", "{% if x %}{text}", "{# {text} #}"])
@pytest.mark.parametrize("name", ["template", "system"])
def test_double_braces_which_dagster_would_take_are_refused_with_the_mend(name, wild):
    with pytest.raises(Exception, match=r"labels") as raised, loaded(LABELS | {name: wild}):
        pass

    told = "".join(str(error) for error in chain_of(raised.value))
    assert "has double braces. Write a field in single braces, such as {text}." in told
    assert "defs.yaml:" in told
    assert f"field '{name}'" in told


def chain_of(error):
    while error is not None:
        yield error
        error = error.__cause__


@pytest.mark.parametrize("template", ['{"a": {"b": "{text}"}}', "['{text}']", "7 {text}"])
def test_text_is_taken_as_it_stands_even_if_it_looks_like_something_else(template):
    with loaded(LABELS | {"template": template, "salt": "7", "fill_null": "None"}) as (_, component, _):
        assert (component.template, component.salt, component.fill_null) == (template, "7", "None")


def test_files_beside_the_yaml_are_found_wherever_dagster_runs(sandbox, store):
    given = {"key": "labels", "upstream": "reviews", "model": "claude-haiku-4-5", "max_tokens": 16}
    given |= {"template_file": "prompt.txt", "system_file": "system.txt"}

    @dg.asset
    def reviews():
        return pa.table({"text": ["Fine."]})

    with (
        dg.DagsterInstance.ephemeral() as instance,
        loaded(given, prompt_txt="Label: {text}\n", system_txt="Be kind.\n") as (_, _, defs),
    ):
        claude = ClaudeResource(base_url=sandbox.url, api_key="sandbox", store=str(store))
        assert Location(instance, claude, dg.Definitions(assets=[reviews]), defs).materialize().success
    (request,) = sandbox.requests()
    assert b'"content":"Label: Fine."' in request.params
    assert b'"system":"Be kind."' in request.params


def test_two_components_share_the_sensor_for_what_is_downstream():
    with create_defs_folder_sandbox() as project:
        for key in ("labels", "topics"):
            folder = project.defs_folder_path / key
            folder.mkdir()
            (folder / "defs.yaml").write_text(yaml.safe_dump({"type": TYPE, "attributes": LABELS | {"key": key}}))
        with project.build_all_defs() as defs:
            in_python = build_batch_defs(**LABELS | {"key": "themes"})
            shared = dg.Definitions(resources={"claude": ClaudeResource()})
            together = dg.Definitions.merge(defs, in_python, shared)
            dg.Definitions.validate_loadable(together)

    sensors = {sensor.name for sensor in together.get_repository_def().sensor_defs}
    assert sensors == {"labels_sensor", "topics_sensor", "themes_sensor", "claude_automation"}


def test_scaffolding_writes_a_file_that_loads():
    with create_defs_folder_sandbox() as project:
        folder = project.scaffold_component(
            BatchComponent, defs_path="tickets", scaffold_params={"upstream": "inbox", "template": "Sort: {body}"}
        )
        written = yaml.safe_load((folder / "defs.yaml").read_text())["attributes"]
        with project.load_component_and_build_defs(defs_path=folder) as (component, _):
            assert (component.key, component.upstream) == ("tickets", "inbox")

    assert written == {
        "key": "tickets",
        "upstream": "inbox",
        "template": "Sort: {body}",
        "model": "claude-haiku-4-5",
        "max_tokens": 64,
    }


def test_a_source_is_scaffolded_as_it_is_found_from_where_it_was_typed(monkeypatch):
    with create_defs_folder_sandbox() as project:
        (project.project_root / "data").mkdir()
        monkeypatch.chdir(project.project_root)
        given = {"source": "data/reviews.csv"}
        folder = project.scaffold_component(BatchComponent, defs_path="labels", scaffold_params=given)
        with project.load_component_and_build_defs(defs_path=folder) as (component, _):
            found = Path(component.source).resolve()

    assert found == project.project_root.resolve() / "data" / "reviews.csv"


WRONG = f"""type: {TYPE}

attributes:
  key: labels
  source: reviews.parquet
  template: "Label: {{{{text}}}}"
  modle: claude-haiku-4-5
  max_tokens: 16
"""


@pytest.fixture
def project(tmp_path):
    """Lay out a project whose one component is wrong in two lines."""
    folder = tmp_path / "location" / "defs" / "labels"
    folder.mkdir(parents=True)
    for module in (folder.parent, folder.parent.parent):
        (module / "__init__.py").touch()
    (folder / "defs.yaml").write_text(WRONG)
    settings = '[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "location"\n'
    (tmp_path / "pyproject.toml").write_text(settings)
    return tmp_path


def dg_command(folder, *arguments):
    """Run `dg` as a user does."""
    command = [str(Path(sys.executable).parent / "dg"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_dg_lists_the_component_and_tells_file_line_and_field_of_what_is_wrong(project):
    checked = dg_command(project, "check", "yaml")
    listed = dg_command(project, "list", "components", "--json")

    assert checked.returncode == 1
    file = project / "location" / "defs" / "labels" / "defs.yaml"
    for line, said in [
        (6, "attributes.template 'Label: {{text}}' should not be valid under"),
        (7, "attributes.modle Additional properties are not allowed ('modle' was unexpected)"),
    ]:
        assert f"{file}:{line} - {TYPE} {said}" in checked.stdout
    assert "Write a field in single braces" in checked.stdout
    assert TYPE in listed.stdout


def test_a_check_in_yaml_that_there_is_not():
    with (
        pytest.raises(Exception, match=r"labels") as raised,
        loaded(LABELS | {"checks": {"min_succeeded": 95}}),
    ):
        pass

    assert "min_succeeded" in "".join(str(error) for error in chain_of(raised.value))
