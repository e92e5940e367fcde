"""Parameters: the same value is the same request however it is given, and what no batch takes is refused at once."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal

import anthropic
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_pipeline.errors import InputError, MissingColumnError
from claude_pipeline.forms import build_form
from claude_pipeline.parameters import ParamSlot, check_betas, check_client, check_params
from claude_pipeline.sources import open_table
from claude_pipeline.values import Unsendable, to_json

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
INT64 = st.integers(-(2**63), 2**63 - 1)
BROKEN = st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: not number.is_integer())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | BROKEN | TEXTS,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(TEXTS, values, max_size=3),
    max_leaves=8,
)


def fill(column, *, key="thinking", default=b""):
    slot = ParamSlot(key, "cell", default)
    batch = pa.record_batch({"cell": column})
    slot.check_types(batch.schema, source="rows.parquet")
    return list(slot.fill(batch))


def fill_from(source, **options):
    (batch,) = open_table(source).batches
    return fill(batch.column("cell"), **options)


def member(key, value):
    """Write a parameter as it is written for the whole job."""
    return to_json(key, key) + b":" + to_json(key, value) + b","


def refuse(column, key):
    (refusal,) = fill(column, key=key)
    assert refusal.error_type == "invalid_parameter"
    return refusal.error_message


# A row's own value


@given(st.integers() | BROKEN | st.booleans() | st.lists(JSON) | st.dictionaries(TEXTS, JSON))
def test_json_in_a_text_column_is_the_same_bytes_as_for_the_whole_job(value):
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=2)):
        assert fill(pa.array([text])) == [member("thinking", value)]


@pytest.mark.parametrize(
    "values",
    [INT64, BROKEN, st.booleans(), st.lists(TEXTS), st.lists(st.lists(INT64)), st.builds(dict, type=TEXTS, n=INT64)],
    ids=["int", "float", "bool", "texts", "lists", "struct"],
)
@given(data=st.data())
def test_a_typed_column_is_the_same_bytes_as_for_the_whole_job(values, data):
    value = data.draw(values)
    expected = [member("thinking", value)]
    assert fill(pa.array([value])) == expected
    assert fill_from(pd.DataFrame({"cell": [value]})) == expected
    assert fill_from(pl.DataFrame({"cell": [value]}, strict=False)) == expected


@given(TEXTS.filter(lambda text: text.strip()))
def test_a_model_is_text_even_if_it_looks_like_something_else(model):
    expected = [member("model", model)]
    assert fill(pa.array([model]), key="model") == expected
    assert fill(pa.array([model]).dictionary_encode(), key="model") == expected
    assert fill(pa.array(["7"]), key="model") == [b'"model":"7",']


@pytest.mark.parametrize(
    "text", ["auto", "{", "NaN", "Infinity", "1 2", "[" * 100_000, "9" * 5000], ids=lambda text: text[:9]
)
def test_text_that_is_not_json_is_text(text):
    assert fill(pa.array([text])) == [member("thinking", text)]


def test_a_row_that_brings_what_all_others_share_is_the_same_request():
    thinking = {"type": "enabled", "budget_tokens": 1024}
    batch = pa.record_batch({"text": ["Hi"], "own": [thinking], "written": [json.dumps(thinking)], "null": pa.nulls(1)})
    asked = {"source": "rows.parquet", "template": "{text}", "model": "claude-haiku-4-5", "max_tokens": 16}
    forms = [
        build_form(batch.schema, **asked, params={"thinking": thinking}),
        build_form(batch.schema, **asked, params_columns={"thinking": "own"}),
        build_form(batch.schema, **asked, params_columns={"thinking": "written"}),
        build_form(batch.schema, **asked, params={"thinking": thinking}, params_columns={"thinking": "null"}),
    ]
    requests = {request for form in forms for request in form.render(batch)}
    assert len(requests) == 1


@pytest.mark.parametrize(
    ("column", "text"),
    [
        (pa.array([1, None]), "1"),
        (pa.array([16.0]), "16"),
        (pa.array([-0.0]), "0"),
        (pa.array([1e300]), "1e+300"),
        (pa.array(["16.0"]), "16"),
        (pa.array([0.1], pa.float32()), "0.1"),
        (pa.array([0.5], pa.float16()), "0.5"),
        (pa.array([Decimal("1.50")]), "1.5"),
        (pa.array([Decimal(12345678901234567890)]), "12345678901234567890"),
        (pa.array([True]), "true"),
        (pa.array(["null"]), "null"),
        (pa.array(['"7"']), '"7"'),
        (pa.array(["a", "b"]).dictionary_encode(), '"a"'),
        (pa.array([7], pa.int64()).dictionary_encode(), "7"),
        (pa.array(['{"a": 1}']).cast(pa.json_()), '{"a":1}'),
        (pa.array([date(2026, 1, 2)]), '"2026-01-02"'),
        (pa.array([datetime(2026, 1, 2, tzinfo=UTC)]), '"2026-01-02 00:00:00Z"'),
        (pa.array([[1, None]]), "[1,null]"),
        (pa.array([[]], pa.list_(pa.string(), -1)), "[]"),
        (pa.array([[1, 2]], pa.list_(pa.int64(), 2)), "[1,2]"),
        (pa.array([[1]], pa.list_view(pa.int64())), "[1]"),
        (pa.array([{"b": None, "a": {"c": None, "d": 1}}]), '{"a":{"d":1}}'),
        (pa.array([{}], pa.struct([])), "{}"),
        (pa.array([{"a": ["1"]}]), '{"a":["1"]}'),
    ],
    ids=str,
)
def test_every_type_of_cell_has_one_way_to_be_json(column, text):
    with_null = pa.concat_arrays([column.slice(0, 1), pa.nulls(1, column.type)])
    assert fill(with_null) == [f'"thinking":{text},'.encode(), b""]


def test_a_null_takes_the_default_and_so_does_an_empty_cell_of_a_csv(tmp_path):
    default = member("max_tokens", 64)
    (tmp_path / "rows.csv").write_text("cell,id\n16,1\n,2\n")
    expected = [b'"max_tokens":16,', default]
    assert fill(pa.array([16, None]), key="max_tokens", default=default) == expected
    assert fill_from(pd.DataFrame({"cell": [16, None]}), key="max_tokens", default=default) == expected
    assert fill_from(tmp_path / "rows.csv", key="max_tokens", default=default) == expected
    assert fill(pa.nulls(2), default=b"") == [b"", b""]


def test_a_null_that_nothing_stands_in_for_is_a_missing_field():
    _, refusal = fill(pa.array(["claude-haiku-4-5", None]), key="model", default=None)
    assert refusal == ("missing_field", "Column 'cell' is null. It was not sent; fill it in the input.")


@pytest.mark.parametrize("model", [" ", "\n\u2003"])
def test_a_blank_model_is_refused(model):
    assert refuse(pa.array([model]), "model").startswith(f"Column 'cell' has {model!r} for model. Give a model's id")


@pytest.mark.parametrize(
    ("column", "shown"),
    [
        (pa.array([0]), "0"),
        (pa.array([-1.0]), "-1"),
        (pa.array([1.5]), "1.5"),
        (pa.array(["many"]), "'many'"),
        (pa.array(["true"]), "True"),
        (pa.array(["[16]"]), "[16]"),
        (pa.array([float("nan")]), "nan"),
        (pa.array([Decimal("0.5")]), "0.5"),
    ],
    ids=str,
)
def test_max_tokens_that_is_no_whole_number_is_refused(column, shown):
    expected = f"Column 'cell' has {shown} for max_tokens. Give a whole number of at least 1."
    assert refuse(column, "max_tokens") == expected


@pytest.mark.parametrize(
    "column",
    [
        pa.array([float("inf")]),
        pa.array([[float("nan")]]),
        pa.array(["1e999"]),
        pa.array(['"\\ud83d"']),
        pa.array(["[" * 900 + "]" * 900]),
    ],
    ids=["inf", "nan", "too large", "half a character", "deep"],
)
def test_what_json_cannot_hold_marks_its_row_and_no_other(column):
    cells = fill(pa.concat_arrays([column, pa.nulls(1, column.type)]), default=b"d")
    assert cells[1] == b"d"
    if isinstance(cells[0], Unsendable):
        assert cells[0].error_message.endswith(" for thinking. Give a plain JSON value.")
        cells[0].error_message.encode()
    else:
        json.loads(b"{" + cells[0].removesuffix(b",") + b"}")


def test_text_that_is_not_unicode_marks_its_row_alone():
    cells = fill(pa.array([b"a", b"\xff", b"b"]).view(pa.string()))
    assert [cells[0], cells[2]] == [b'"thinking":"a",', b'"thinking":"b",']
    assert cells[1].error_type == "invalid_text"


def test_a_column_that_is_missing_is_named():
    with pytest.raises(MissingColumnError, match=r"No column 'limit' in rows.csv. It has: id."):
        ParamSlot("max_tokens", "limit", None).check_types(pa.schema({"id": pa.string()}), source="rows.csv")


@pytest.mark.parametrize(
    "kind",
    [pa.binary(), pa.map_(pa.string(), pa.int64()), pa.list_(pa.binary()), pa.month_day_nano_interval()],
    ids=str,
)
def test_a_column_without_json_is_refused_before_any_row(kind):
    with pytest.raises(InputError, match=r"Column 'cell' holds .*, which has no JSON. Write it as text."):
        ParamSlot("metadata", "cell", b"").check_types(pa.schema({"cell": kind}), source="rows.parquet")


@pytest.mark.parametrize(
    ("key", "kind", "expected"),
    [
        ("model", pa.int64(), "text"),
        ("max_tokens", pa.bool_(), "a whole number"),
        ("max_tokens", pa.date32(), "a whole"),
    ],
)
def test_a_column_of_another_type_is_refused_before_any_row(key, kind, expected):
    with pytest.raises(InputError, match=f"Column 'cell' of rows.parquet is .*, but {key} is {expected}"):
        ParamSlot(key, "cell", None).check_types(pa.schema({"cell": kind}), source="rows.parquet")


# What all rows share


@pytest.fixture(scope="module")
def client():
    with anthropic.Anthropic(api_key="sandbox") as current:
        yield current


def refusal_of(client, **request):
    with pytest.raises(InputError) as caught:
        check_params(client, request)
    return str(caught.value)


@pytest.mark.parametrize("argument", ["params", "params_columns"])
def test_every_parameter_of_the_sdk_passes(client, argument):
    keys = ["tools", "tool_choice", "thinking", "stop_sequences", "metadata", "output_config", "cache_control"]
    check_params(client, {argument: dict.fromkeys(keys, "cell")})
    check_params(client, {argument: {"mcp_servers": "cell"}, "betas": ["mcp-client"]})


def test_nothing_to_check_passes(client):
    check_params(client, {"params": None, "params_columns": None, "betas": ()})
    check_params(client, {})


def test_a_row_may_bring_its_own_model_and_limit(client):
    check_params(client, {"params_columns": {"model": "model", "max_tokens": "limit"}})


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("model", "params has 'model', which has an argument of its own: write model=… instead."),
        ("max_tokens", "params has 'max_tokens', which has an argument of its own: write max_tokens=… instead."),
        ("system", "params has 'system', which has an argument of its own: write system=… instead."),
        ("betas", "params has 'betas', which has an argument of its own: write betas=… instead."),
        ("messages", "params has 'messages': the messages come from the rows; use template=,"),
        ("stream", "params has 'stream': whether answers are streamed is the choice of the function; leave it out."),
        ("speed", "params has 'speed': batches have one speed; leave it out."),
        ("store", "params has 'store': batches do not take it; leave it out."),
        (
            "workspace_id",
            "is a header. Set it on the client: anthropic.Anthropic(default_headers={'anthropic-workspace-id'",
        ),
        ("user_profile_id", "default_headers={'anthropic-user-profile-id': …})."),
        ("mcp_servers", "params has 'mcp_servers', which is a beta feature. Name the feature as well: betas=[…]."),
        ("thinkin", "params has 'thinkin', which the SDK does not know. Did you mean 'thinking'?"),
        ("output_format", "Did you mean 'output_config'?"),
        ("max_completion_tokens", "Did you mean 'max_tokens'?"),
        ("n", "which the SDK does not know. There are: billing_policy, cache_control,"),
        (1, "params has 1, which the SDK does not know."),
    ],
)
def test_a_parameter_that_no_batch_takes_says_where_it_goes(client, key, message):
    assert message in refusal_of(client, params={key: None})


@pytest.mark.parametrize("key", ["system", "messages", "stream", "thinkin"])
def test_a_column_for_such_a_parameter_is_refused_too(client, key):
    assert refusal_of(client, params_columns={key: "cell"}).startswith(f"params_columns has {key!r}")


def test_a_header_is_no_parameter_even_with_betas(client):
    assert "which is a header" in refusal_of(client, params={"workspace_id": "x"}, betas=["output-300k-2026-03-24"])


@pytest.mark.parametrize("key", ["temperature", "top_p", "top_k"])
def test_sampling_is_refused_unless_the_client_speaks_the_version_that_has_it(client, key):
    message = refusal_of(client, params={key: 0.5})
    assert message.startswith(f"params has '{key}', which the API does not take since version 2026-10-21. Leave it out")
    for header in ("anthropic-version", "Anthropic-Version"):
        with anthropic.Anthropic(api_key="sandbox", default_headers={header: "2023-06-01"}) as old:
            check_params(old, {"params": {key: 0.5}})


# Clients


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("AnthropicBedrock", {"aws_region": "us-east-1", "aws_access_key": "x", "aws_secret_key": "x"}),
        ("AnthropicBedrockMantle", {"aws_region": "us-east-1", "api_key": "x"}),
        ("AnthropicVertex", {"region": "global", "project_id": "x", "access_token": "x"}),
        ("AnthropicFoundry", {"resource": "x", "api_key": "x"}),
    ],
)
def test_a_client_of_a_platform_without_batches_is_refused(kind, options):
    with getattr(anthropic, kind)(**options) as client, pytest.raises(InputError) as caught:
        check_client(client)
    expected = f"The client is {kind}, and there are no Message Batches there. Pass anthropic.Anthropic()."
    assert str(caught.value) == expected


def test_a_client_made_from_such_a_class_is_refused_as_well():
    class Mine(anthropic.AnthropicFoundry):
        pass

    with (
        Mine(resource="x", api_key="x") as client,
        pytest.raises(InputError, match="The client is Mine, and there are no"),
    ):
        check_client(client)


def test_an_asynchronous_client_is_refused():
    client = anthropic.AsyncAnthropic(api_key="x")
    with pytest.raises(InputError, match=r"AsyncAnthropic, which is asynchronous. Pass anthropic.Anthropic\(\)."):
        check_client(client)


@pytest.mark.parametrize(
    ("stranger", "kind"), [("sk-ant-secret", "str"), (anthropic.Anthropic, "type"), (None, "NoneType")]
)
def test_something_else_is_refused_by_its_type_and_never_shown(stranger, kind):
    with pytest.raises(InputError, match=f"The client is of type {kind}, which is none of the SDK's") as caught:
        check_client(stranger)
    assert "secret" not in str(caught.value)


def test_clients_with_batches_pass(client):
    class Mine(anthropic.Anthropic):
        pass

    with (
        Mine(api_key="x") as mine,
        anthropic.AnthropicAWS(api_key="x", aws_region="us-east-1", workspace_id="x") as aws,
        anthropic.AnthropicGoogleCloud(project="x", workspace_id="x", token_provider=lambda: "x") as google,
    ):
        for each in (client, mine, aws, google):
            check_client(each)


# Betas


def test_betas_are_put_in_order():
    assert check_betas(["b-2", "a-1"]) == ("a-1", "b-2")
    assert check_betas([]) == ()


def test_betas_that_are_one_text_are_refused_with_the_list_to_write():
    with pytest.raises(InputError, match=r"betas is the text 'files'. Give a list: betas=\['files'\]."):
        check_betas("files")


@pytest.mark.parametrize("name", ["", " ", "a,b", "a b", "a\n", "é", "\ud800", None, 1])
def test_a_beta_that_no_header_could_hold_is_refused(name):
    with pytest.raises(InputError, match=r"betas has .*\. Give each feature's name alone"):
        check_betas(["fine", name])


def test_a_beta_that_stands_twice_is_refused():
    with pytest.raises(InputError, match=r"betas has 'a' twice. Name it once."):
        check_betas(["a", "b", "a"])
