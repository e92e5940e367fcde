"""What a newcomer writes, in under ten lines each, through a server that is not ours."""

import json
from datetime import date

import pandas as pd
import pyarrow as pa
import pytest
from foreign_server import ForeignServer
from pydantic import BaseModel

import claude_pipeline as cp

ORDER = {"buyer": "Ada", "day": "2026-11-28", "items": [{"name": "tea", "price": 4.5}, {"name": "cup", "price": 9}]}


def answer(params):
    """Answer by hand, by what is asked for."""
    prompt = params["messages"][0]["content"]
    if tools := params.get("tools"):
        return [{"type": "tool_use", "id": "toolu_1", "name": tools[0]["name"], "input": {"city": "Ulm", "days": 3}}]
    if "buyer" in params["output_config"]["format"]["schema"]["properties"]:
        return [{"type": "text", "text": json.dumps(ORDER)}]
    word = "negative" if "Bad" in prompt else "positive"
    return [{"type": "text", "text": json.dumps({"sentiment": word})}]


@pytest.fixture(autouse=True)
def server(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "somebody-elses")
    with ForeignServer(answer) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        yield server


def test_classification_into_an_enum(server):
    reviews = pd.DataFrame({"text": ["Good tea.", "Bad cups.", "Good tea."]})
    job = cp.submit(
        reviews,
        template="Judge this review: {text}",
        model="claude-haiku-4-5",
        max_tokens=50,
        output_schema={"sentiment": "positive|negative"},
    ).wait(poll_interval=0)
    found = job.to_pandas().sentiment

    assert found.tolist() == ["positive", "negative", "positive"]
    assert found.cat.categories.tolist() == ["positive", "negative"]
    assert len(server.received) == 2


class Item(BaseModel):
    name: str
    price: float


class Order(BaseModel):
    buyer: str
    day: date
    items: list[Item]


def test_extraction_into_nested_columns():
    mails = pd.DataFrame({"mail": ["Ada wants tea and a cup today."]})
    job = cp.submit(mails, prompt_column="mail", model="claude-haiku-4-5", max_tokens=500, output_schema=Order)
    table = job.wait(poll_interval=0).to_arrow()

    assert table.schema.field("items").type == pa.list_(pa.struct([("name", pa.string()), ("price", pa.float64())]))
    assert table.select(["buyer", "day", "items"]).to_pylist() == [ORDER | {"day": date(2026, 11, 28)}]


def test_a_tool_call_with_typed_input():
    table = pd.DataFrame({"text": ["What will the weather be in Ulm for three days?"]})
    fields = {"city": {"type": "string"}, "days": {"type": "integer"}}
    forecast = {"name": "forecast", "input_schema": {"type": "object", "properties": fields}}
    asked = {"prompt_column": "text", "model": "claude-haiku-4-5", "max_tokens": 200}
    job = cp.submit(table, **asked, params={"tools": [forecast]}).wait(poll_interval=0)
    answers = job.to_arrow()

    assert answers.schema.field("tool_input").type == pa.struct([("city", pa.string()), ("days", pa.int64())])
    assert answers.select(["tool_name", "tool_input"]).to_pylist() == [
        {"tool_name": "forecast", "tool_input": {"city": "Ulm", "days": 3}}
    ]
