"""The status as data: what the shell prints in many situations is what docs/status.md and its schema promise."""

import json
import re
from dataclasses import fields

import pyarrow as pa
import pytest
from click.testing import CliRunner
from conftest import submit_to
from jsonschema import Draft202012Validator
from status_table import DOCS, SCHEMA, rows

import claude_pipeline as cp
from claude_pipeline.cli import main

PROMISE = Draft202012Validator(SCHEMA)


def shell(*words):
    return json.loads(CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False).stdout)


def fate(_custom_id, params, _attempt):
    text = json.dumps(params)
    return next((kind for kind in ("invalid_request_error", "credit_too_low") if kind in text), None)


def situations(store):
    """Submit a job for each situation, and return how it should stand."""
    options = {"store": store}
    with cp.Sandbox(rows=fate) as sandbox:
        submit_to(sandbox, ["one", "one", " ", "Say invalid_request_error."], name="mixed", **options).wait()
        submit_to(sandbox, ["one", "two"], **options).wait()
        submit_to(sandbox, ["Say credit_too_low."], **options).advance()
        table = pa.table({"text": ["one", None], "other": ["two", "three"]})
        submit_to(sandbox, table, template="{text} {other}", **options).wait()
        options |= {"prompt_column": "text", "model": "claude-haiku-4-5", "max_tokens": 9, "base_url": sandbox.url}
        list(cp.stream(pa.table({"text": ["streamed"]}), **options))
    with cp.Sandbox(batch_seconds=3600) as slow:
        submit_to(slow, ["slow"], store=store)
        submit_to(slow, ["stopped"], store=store).cancel()
    return {"ended", "blocked", "in_progress", "canceling"}


def test_what_the_shell_prints_is_what_is_promised(store):
    wanted = situations(store)
    listed = shell("list", "--json", "--store", store)
    assert {status["state"] for status in listed} == wanted
    assert any(status["refusals"] for status in listed)
    assert any(status["unanswered"] for status in listed)
    for status in listed:
        PROMISE.validate(status)
        assert status["rows"] == sum(status[n] for n in ("skipped", "invalid", "duplicates", "reused", "requests"))
        assert shell("status", status["job_id"], "--json", "--store", store) == status


def test_waiting_and_advancing_print_the_same_objects(store):
    with cp.Sandbox() as sandbox:
        job = submit_to(sandbox, ["one"], store=store)
        (advanced,) = shell("advance", "--json", "--store", store, "--base-url", sandbox.url)
        waited = shell("wait", job.job_id, "--json", "--store", store, "--base-url", sandbox.url)
    PROMISE.validate(advanced)
    assert waited == shell("list", "--json", "--store", store)[0]


def test_the_schema_has_exactly_the_fields_and_is_strict():
    assert set(SCHEMA["properties"]) == {field.name for field in fields(cp.Status)} | {"cache_hit_rate"}
    Draft202012Validator.check_schema(SCHEMA)
    assert not PROMISE.is_valid({})
    assert SCHEMA["properties"]["state"]["enum"] == list(cp.Status.__annotations__["state"].__args__)


def test_the_page_lists_exactly_the_fields():
    listed = re.findall(r"^\| `[\w.\[\]]+` \| (?:string|integer|number|boolean|array|object).*$", PAGE, re.MULTILINE)
    assert listed == list(rows(SCHEMA))


PAGE = (DOCS / "status.md").read_text()


@pytest.mark.parametrize("state", SCHEMA["properties"]["state"]["enum"])
def test_the_page_explains_each_state(state):
    assert f"\n| `{state}` | " in PAGE
