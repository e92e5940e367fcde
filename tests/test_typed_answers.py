"""Answers as typed columns, from what a user writes to the table that comes back."""

import json
from datetime import date

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel

import claude_pipeline as cp

REVIEWS = pd.DataFrame({"id": [1, 2, 3], "text": ["Good tea.", "Bad cups.", "Fine spoons."]})


@pytest.fixture
def answering(tmp_path):
    """Give a function that submits to a sandbox with answers of one's own."""

    def ask(answer, faults=None, **options):
        with cp.Sandbox(answer=answer, **(faults or {})) as server:
            place = {"store": tmp_path / "store", "base_url": server.url}
            asked = {"template": "{text}", "model": "claude-haiku-4-5", "max_tokens": 200}
            return cp.submit(REVIEWS, **{**asked, **place, **options}).wait(poll_interval=0)

    return ask


@pytest.fixture
def ask(sandbox, tmp_path):
    def ask(source=REVIEWS, **options):
        asked = {"template": "{text}", "model": "claude-haiku-4-5", "max_tokens": 200}
        place = {"store": tmp_path / "store", "base_url": sandbox.url}
        return cp.submit(source, **{**asked, **place, **options}).wait(poll_interval=0)

    return ask


def test_classification_into_an_enum(ask, sandbox):
    table = ask(output_schema={"sentiment": "positive|negative", "score": float}).to_arrow()
    assert table.schema.field("sentiment").type == pa.dictionary(pa.int32(), pa.string())
    assert set(table.column("sentiment").to_pylist()) <= {"positive", "negative"}
    assert table.schema.field("score").type == pa.float64()
    assert table.column("score").null_count == 0
    sent = [json.loads(request.params)["output_config"]["format"] for request in sandbox.requests()]
    assert [form["schema"]["additionalProperties"] for form in sent] == [False] * 3


class Item(BaseModel):
    name: str
    price: float


class Order(BaseModel):
    buyer: str
    day: date
    items: list[Item]


def test_extraction_into_nested_columns(ask):
    table = ask(output_schema=Order).to_arrow()
    assert table.schema.field("day").type == pa.date32()
    item = table.schema.field("items").type.value_type
    assert [field.name for field in item] == ["name", "price"]
    assert table.column("items").null_count == 0


def test_a_tool_call_with_typed_input(ask):
    schema = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
    tool = {"name": "forecast", "input_schema": {**schema, "required": ["city", "days"]}}
    params = {"tools": [tool], "tool_choice": {"type": "tool", "name": "forecast"}}
    table = ask(params=params).to_arrow()
    assert set(table.column("tool_name").to_pylist()) == {"forecast"}
    assert {field.name: field.type for field in table.schema.field("tool_input").type} == {
        "city": pa.string(),
        "days": pa.int64(),
    }
    assert table.column("tool_input").null_count == 0


def test_an_answer_that_does_not_fit_says_where_and_keeps_its_text(answering):
    answers = {"Good tea.": '{"score": 1}', "Bad cups.": '{"score": "high"}', "Fine spoons.": "no JSON"}
    job = answering(lambda params: answers[params["messages"][0]["content"]], output_schema={"score": float})
    frame = job.to_pandas()
    assert frame.score.tolist()[0] == 1.0
    assert frame.score.isna().tolist() == [False, True, True]
    assert frame.error_type.isna().tolist() == [True, False, False]
    assert set(frame.error_type[1:]) == {"invalid_output"}
    assert frame.error_message[1] == '$.score: expected a number, got "high"'
    assert frame.response.tolist() == list(answers.values())
    assert frame.result_type.tolist() == ["succeeded"] * 3


def test_columns_stay_typed_when_no_row_succeeded(answering):
    every = {"error_rates": {"invalid_request_error": 1.0}}
    table = answering("facts", every, output_schema="sentiment: positive|negative, score: float").to_arrow()
    assert table.column("result_type").to_pylist() == ["errored"] * 3
    assert table.schema.field("score").type == pa.float64()
    assert table.column("score").null_count == 3


def test_typed_columns_survive_parquet_and_become_text_in_csv(ask, tmp_path):
    job = ask(output_schema=Order)
    job.write(tmp_path / "orders.parquet")
    job.write(tmp_path / "orders.csv")
    assert pq.read_table(tmp_path / "orders.parquet").column("items").to_pylist() == [
        json.loads(items) for items in pd.read_csv(tmp_path / "orders.csv")["items"]
    ]


def test_content_brings_all_blocks(ask):
    thinking = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
    frame = ask(content="json", params=thinking, max_tokens=2048).to_pandas()
    assert [[block["type"] for block in json.loads(blocks)] for blocks in frame.content] == [["thinking", "text"]] * 3


def test_a_schema_that_the_api_cannot_take_is_refused_before_anything_is_sent(ask, sandbox):
    with pytest.raises(cp.InputError, match=r"output_schema\.pair"):
        ask(output_schema={"type": "object", "properties": {"pair": {"type": "array", "prefixItems": []}}})
    assert sandbox.usage()["requests_accepted"] == 0


def test_a_property_named_like_a_column_needs_a_prefix(ask):
    table = pd.DataFrame({"text": ["a"], "score": [1]})
    with pytest.raises(cp.InputError, match="'score'"):
        ask(table, output_schema={"score": float})
    assert ask(table, output_schema={"score": float}, prefix="ai_").to_pandas().ai_score.notna().all()


def test_the_same_schema_in_another_spelling_asks_nothing_again(ask, sandbox):
    ask(output_schema={"sentiment": "positive|negative"})
    ask(output_schema="sentiment: positive|negative")
    assert sandbox.usage()["requests_accepted"] == 3


def test_an_estimate_counts_the_schema(sandbox, tmp_path):
    options = {"template": "{text}", "model": "claude-haiku-4-5", "max_tokens": 9, "base_url": sandbox.url}
    place = {"store": tmp_path / "store", "exact": 0}
    plain = cp.estimate(REVIEWS, **options, **place)
    typed = cp.estimate(REVIEWS, **options, **place, output_schema=Order)
    assert typed.body_bytes > plain.body_bytes
