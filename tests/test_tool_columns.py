"""Columns made of answers: the tool that was called, all blocks, typed output."""

import json

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import submit_to
from hypothesis import given
from hypothesis import strategies as st

import claude_pipeline as cp
from claude_pipeline.derived import AnswerOptions, Derived, answer_options, mark_invalid
from claude_pipeline.schemas import read_schema
from claude_pipeline.walking import ANSWER_SCHEMA, LINE_SCHEMA

LABEL = {
    "type": "object",
    "properties": {
        "label": {"enum": ["good", "bad"], "description": "How it sounds."},
        "stars": {"type": "integer"},
        "words": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["label", "stars", "words"],
}
TYPED = pa.struct(
    [("label", pa.dictionary(pa.int32(), pa.string())), ("stars", pa.int64()), ("words", pa.list_(pa.string()))]
)
TOOL = {"name": "label", "description": "Label it.", "input_schema": LABEL}
OTHER = {"name": "other", "input_schema": {"type": "object", "properties": {"text": {"type": "string"}}}}
OPEN = {"name": "open", "input_schema": {"type": "object"}}
SEARCH = {"type": "web_search_20250305", "name": "web_search"}
BASH = {"type": "bash_20250124", "name": "bash"}
FORCED = {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "label"}}
THINKING = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
ALL = {"params": FORCED, "content": "json", "output_schema": "score: float, when: date"}


def call(**given):
    return {"type": "tool_use", "id": "toolu_1", "name": "label", "input": given}


def prompt_of(params):
    return params["messages"][0]["content"]


def submit(sandbox, store, source, **options):
    return submit_to(sandbox, source, store=store, max_tokens=4_000, **options)


def ask(sandbox, store, source, **options):
    """Return the answers as a table."""
    return submit(sandbox, store, source, **options).wait(poll_interval=0).to_arrow()


def test_a_forced_tool_comes_with_its_name_and_its_input_typed_by_its_schema(sandbox, store):
    table = ask(sandbox, store, ["It is fine.", None, "It broke."], params=FORCED)
    assert table.schema.field("tool_input").type == TYPED
    assert table["tool_name"].to_pylist() == ["label", None, "label"]
    first, none, last = table["tool_input"].to_pylist()
    assert none is None
    for called in (first, last):
        assert called["label"] in {"good", "bad"}
        assert isinstance(called["stars"], int)
        assert all(isinstance(word, str) for word in called["words"])
    assert table["error_type"].to_pylist() == [None, "missing_prompt", None]


def test_the_columns_follow_the_standard_ones(sandbox, store):
    table = ask(sandbox, store, ["a"], **ALL)
    assert table.column_names == ["text", *ANSWER_SCHEMA.names, "score", "when", "tool_name", "tool_input", "content"]


def test_without_tools_schema_or_content_there_are_the_standard_ones(sandbox, store):
    assert ask(sandbox, store, ["a"]).column_names == ["text", *ANSWER_SCHEMA.names]


def test_the_input_of_one_of_several_tools_is_json_text(sandbox, store):
    params = {"tools": [TOOL, OTHER], "tool_choice": {"type": "any"}}
    table = ask(sandbox, store, [f"Row {number}" for number in range(12)], params=params)
    assert table.schema.field("tool_input").type == pa.large_string()
    known = {"label": LABEL["properties"].keys(), "other": OTHER["input_schema"]["properties"].keys()}
    for name, text in zip(table["tool_name"].to_pylist(), table["tool_input"].to_pylist(), strict=True):
        assert json.loads(text).keys() <= known[name]
    assert set(table["tool_name"].to_pylist()) == known.keys()


def test_a_tool_that_a_row_brings_along_has_an_input_of_json_text(sandbox, store):
    source = pa.table({"text": ["a", "b"], "mine": [json.dumps([tool]) for tool in (TOOL, OTHER)]})
    table = ask(sandbox, store, source, params_columns={"tools": "mine"})
    assert table["tool_name"].to_pylist() == ["label", "other"]
    assert json.loads(table["tool_input"][0].as_py()).keys() == LABEL["properties"].keys()


def test_of_several_calls_the_first_counts_and_its_json_is_not_rounded(store):
    other = {"type": "tool_use", "id": "toolu_2", "name": "other", "input": {"text": "é", "n": 12345678901234567890}}
    said = [{"type": "text", "text": "First I look."}, other, call(label="bad", stars=2, words=[])]
    with cp.Sandbox(answer=lambda _params: said) as sandbox:
        (row,) = ask(sandbox, store, ["a"], params={"tools": [TOOL, OTHER]}).to_pylist()
    assert (row["response"], row["tool_name"]) == ("First I look.", "other")
    assert "12345678901234567890" in row["tool_input"]
    assert json.loads(row["tool_input"]) == other["input"]


def test_an_input_that_does_not_fit_is_null_and_the_error_says_where(store):
    def answer(params):
        return [call(label="bad", stars=json.loads(prompt_of(params)), words=["x"])]

    with cp.Sandbox(answer=answer) as sandbox:
        table = ask(sandbox, store, ["1", '"many"', "9223372036854775808"], params=FORCED, content="json")
    assert table["tool_input"].to_pylist() == [{"label": "bad", "stars": 1, "words": ["x"]}, None, None]
    assert table["tool_name"].to_pylist() == ["label"] * 3
    assert table["result_type"].to_pylist() == ["succeeded"] * 3
    assert table["error_type"].to_pylist() == [None, "invalid_output", "invalid_output"]
    assert table["error_message"][1].as_py().startswith("tool_input.stars: expected a whole number")
    assert json.loads(table["content"][1].as_py())[0]["input"]["stars"] == "many"


def test_an_answer_that_calls_no_tool_has_none(store):
    with cp.Sandbox(answer=lambda _params: "Just text.") as sandbox:
        table = ask(sandbox, store, ["a", "a"], params=FORCED)
    nothing = {"tool_name": None, "tool_input": None, "error_type": None, "response": "Just text."}
    assert table.select(list(nothing)).to_pylist() == [nothing] * 2


def test_thoughts_stand_in_the_content_and_not_in_the_response(sandbox, store):
    table = ask(sandbox, store, ["Why is it so? " * 20, None], params=THINKING, content="json")
    thought, text = json.loads(table["content"][0].as_py())
    assert (thought["type"], bool(thought["signature"])) == ("thinking", True)
    assert text["text"] == table["response"][0].as_py()
    assert table["content"][1].as_py() is None


def test_citations_stand_in_the_content(sandbox, store):
    source = {"type": "text", "media_type": "text/plain", "data": "It rains. Oslo has 3 cranes."}
    document = {"type": "document", "source": source, "citations": {"enabled": True}}
    turn = {"role": "user", "content": [document, {"type": "text", "text": "cranes of Oslo?"}]}
    job = {"prompt_column": None, "messages_column": "turns", "content": "json"}
    table = ask(sandbox, store, pa.table({"turns": [json.dumps([turn])]}), **job)
    (block,) = json.loads(table["content"][0].as_py())
    assert block["text"] == table["response"][0].as_py() == "Oslo has 3 cranes."
    assert block["citations"][0]["cited_text"] == block["text"]


def test_an_answer_of_plain_text_is_one_block_though_its_line_was_not_kept(store):
    texts = ["plain", 'quotes " and \\ and \n lines', "é 😀", "\u2028"]
    with cp.Sandbox(answer=prompt_of) as sandbox:
        table = ask(sandbox, store, [f"{text}." for text in texts], content="json")
    found = [json.loads(text) for text in table["content"].to_pylist()]
    assert found == [[{"type": "text", "text": f"{text}."}] for text in texts]


def test_a_refusal_has_no_blocks_and_a_row_that_failed_has_no_content(store):
    def decide(_custom_id, params, _attempt):
        return "invalid_request_error" if prompt_of(params) == "wrong" else "succeeded"

    refusal = {"content": [], "stop_reason": "refusal"}
    with cp.Sandbox(rows=decide, answer=lambda _params: refusal) as sandbox:
        table = ask(sandbox, store, ["wrong", "refused"], content="json")
    assert table["content"].to_pylist() == [None, "[]"]


def test_an_answer_without_text_is_no_valid_output_unless_it_calls_a_tool(store):
    said = {
        "refused": {"content": [], "stop_reason": "refusal"},
        "called": [call(label="bad", stars=2, words=[])],
        "said": [{"type": "text", "text": "First I look."}, call(label="bad", stars=2, words=[])],
        "typed": '{"score": 0.5}',
        "half": '{"sco',
    }
    with cp.Sandbox(answer=lambda params: said[prompt_of(params)]) as sandbox:
        table = ask(sandbox, store, list(said), params={"tools": [TOOL]}, output_schema="score: float")
    assert table["score"].to_pylist() == [None, None, None, 0.5, None]
    assert table["error_type"].to_pylist() == ["invalid_output", None, None, None, "invalid_output"]
    assert table["error_message"][0].as_py() == "$: expected JSON, got no text (stop_reason refusal)"
    assert table["response"].to_pylist() == [None, None, "First I look.", '{"score": 0.5}', '{"sco']


def test_duplicates_and_reused_rows_have_the_same_columns(store):
    def answer(params):
        thought = {"type": "thinking", "thinking": "Hm.", "signature": "x"}
        return [thought, call(label="good", stars=1, words=[prompt_of(params)])]

    prompts = ["a", "b", "a", None, "c", "b"]
    with cp.Sandbox(answer=answer) as sandbox:
        for order in (prompts, prompts[::-1]):
            table = ask(sandbox, store, order, params={"tools": [TOOL]}, content="json", max_batch_requests=2)
            assert [called and called["words"][0] for called in table["tool_input"].to_pylist()] == order
            blocks = [json.loads(text or "null") for text in table["content"].to_pylist()]
            assert [found and found[1]["input"]["words"][0] for found in blocks] == order
    assert set(table["cost_usd"].drop_null().to_pylist()) == {0.0}


def test_before_the_end_the_columns_are_there_and_empty(store):
    with cp.Sandbox(batch_seconds=3600) as sandbox:
        table = submit(sandbox, store, ["a", "b"], **ALL).to_arrow()
    assert {table[name].null_count for name in ("score", "tool_name", "tool_input", "content", "error_type")} == {2}


@pytest.mark.parametrize("name", ["answers.parquet", "answers.csv"])
def test_columns_stay_typed_when_no_row_succeeded(store, tmp_path, name):
    with cp.Sandbox(rows=lambda _id, _params, _attempt: "invalid_request_error") as sandbox:
        job = submit(sandbox, store, ["a", "b", None], **ALL)
        job.wait(poll_interval=0)
    derived = job.to_arrow().select(["score", "when", "tool_name", "tool_input", "content"])
    assert derived.schema.types == [pa.float64(), pa.date32(), pa.string(), TYPED, pa.large_string()]
    assert {column.null_count for column in derived.columns} == {3}
    assert job.to_arrow()["error_type"].to_pylist() == ["invalid_request_error"] * 2 + ["missing_prompt"]
    assert job.write(tmp_path / name).is_file()


def test_parquet_gives_typed_columns_and_their_descriptions_back(sandbox, store, tmp_path):
    job = submit(sandbox, store, ["a", "b", None], params=FORCED, output_schema=LABEL)
    job.wait(poll_interval=0)
    written = pq.read_table(job.write(tmp_path / "answers.parquet"))
    assert written.equals(job.to_arrow())
    assert written.schema.field("tool_input").type == TYPED
    for schema in (written.schema, job.to_arrow().schema):
        assert schema.field("label").metadata[b"description"] == b"How it sounds."


def test_csv_has_the_input_of_a_tool_as_json(sandbox, store, tmp_path):
    job = submit(sandbox, store, ["a"], params=FORCED)
    job.wait(poll_interval=0)
    (called,) = job.to_arrow()["tool_input"].to_pylist()
    cell = json.dumps(called, ensure_ascii=False).replace('"', '""')
    assert f'"{cell}"' in job.write(tmp_path / "answers.csv").read_text()


@pytest.mark.parametrize("column", ["score", "tool_name", "tool_input", "content", "response"])
def test_a_column_of_the_users_with_the_name_of_a_derived_one_is_named(sandbox, store, column):
    for prefix in ("", "c_"):
        source = pa.table({"text": ["a"], prefix + column: ["mine"]})
        with pytest.raises(cp.InputError, match=rf"has a column '{prefix}{column}'.*prefix="):
            submit(sandbox, store, source, prefix=prefix, **ALL)
    assert sandbox.usage()["requests_accepted"] == 0
    assert ask(sandbox, store, source, prefix="d_", **ALL)[f"c_{column}"].to_pylist() == ["mine"]


@pytest.mark.parametrize("name", ["model", "response", "tool_name", "content"])
def test_a_property_with_the_name_of_another_column_of_ours_is_named(sandbox, store, name):
    options = {"params": FORCED, "content": "json", "output_schema": {name: str}}
    with pytest.raises(cp.InputError, match=f"output_schema has a property '{name}'.*Rename the property"):
        submit(sandbox, store, ["a"], **options)


def test_a_prefix_stands_before_derived_columns_too(sandbox, store):
    names = ask(sandbox, store, ["a"], prefix="c_", **ALL).column_names
    assert names[-5:] == ["c_score", "c_when", "c_tool_name", "c_tool_input", "c_content"]


def test_results_that_lack_their_lines_are_refused_only_where_lines_are_needed(sandbox, store):
    job = submit(sandbox, store, ["a"], content="json")
    job.wait(poll_interval=0)
    (path,) = (store / "results").iterdir()
    pq.write_table(pq.read_table(path).drop_columns(["line"]), path)
    with pytest.raises(cp.StoreError, match="lacks the lines of its results"):
        job.to_arrow()
    assert ask(sandbox, store, ["a"])["response"].null_count == 0


@pytest.mark.parametrize(
    ("tools", "is_called", "is_typed"),
    [
        ([], False, False),
        ([SEARCH], False, False),
        ([TOOL], True, True),
        ([TOOL, SEARCH], True, True),
        ([TOOL, OTHER], True, False),
        ([TOOL, BASH], True, False),
        ([BASH], True, False),
        ([OPEN], True, False),
    ],
)
def test_an_input_is_typed_when_only_one_tool_can_be_called_and_its_schema_says_enough(tools, is_called, is_typed):
    options = answer_options(params={"tools": tools})
    assert (options.tools, options.tool_schema is not None) == (is_called, is_typed)


def test_content_is_json_or_nothing():
    with pytest.raises(cp.InputError, match=r"content is 'text'\. Write content='json'"):
        answer_options(content="text")


def test_options_survive_the_ledger():
    options = answer_options(params=FORCED, content="json", output_schema=read_schema(LABEL))
    assert msgspec.json.decode(msgspec.json.encode(options), type=AnswerOptions) == options
    assert list(options.output_schema["properties"]) == ["label", "stars", "words"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KINDS = st.sampled_from(["text", "tool_use", "thinking", "server_tool_use", "new_block"])
BLOCKS = st.lists(
    st.fixed_dictionaries({"type": KINDS}, optional={"name": JSON, "input": JSON, "id": JSON}), max_size=4
)


def answers_of(lines):
    rows = [{"result_type": "succeeded", "line": line, "error_message": "It may be billed twice."} for line in lines]
    columns = [pa.array([row.get(field.name) for row in rows], field.type) for field in LINE_SCHEMA]
    return pa.record_batch(columns, schema=LINE_SCHEMA)


@given(st.lists(BLOCKS, max_size=4), st.booleans())
def test_whatever_the_blocks_are_they_come_back_and_break_nothing(contents, is_typed):
    lines = [
        json.dumps({"custom_id": "x", "result": {"type": "succeeded", "message": {"content": content}}}).encode()
        for content in contents
    ]
    options = AnswerOptions(tools=True, tool_schema=read_schema(LABEL) if is_typed else None, content=True)
    answers = answers_of(lines)
    (names, inputs, content), errors = Derived(options).derive(answers)
    assert [json.loads(text) for text in content.to_pylist()] == contents
    calls = [next((block for block in blocks if block["type"] == "tool_use"), None) for blocks in contents]
    assert [call and call.get("name") for call in calls if isinstance((call or {}).get("name"), str)] == [
        name for name in names.to_pylist() if name is not None
    ]
    if not is_typed:
        wanted = [call and json.dumps(call.get("input")) for call in calls]
        assert [text and json.dumps(json.loads(text)) for text in inputs.to_pylist()] == wanted
    assert [bool(error) for error in errors] == [is_typed and call is not None for call in calls]
    marked = mark_invalid(answers, errors)
    for error, message in zip(errors, marked.column("error_message").to_pylist(), strict=True):
        assert message == (f"{error} It may be billed twice." if error else "It may be billed twice.")
