"""From a row to a request: templates, parameters, and the text of every type of cell."""

import json
from datetime import UTC, date, datetime, time
from decimal import Decimal

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_pipeline.errors import InputError, MissingColumnError, UnknownFieldError
from claude_pipeline.prompts import Request, RequestForm, Template, Unsendable, build_form, render_column

LETTERS = st.characters(exclude_categories=["Cs"])
TEXTS = st.text(LETTERS)
PLAIN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="{}"), max_size=8)
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="{}\x00"), min_size=1, max_size=6)
BRACES = st.text(st.sampled_from('{}ab c":\n1'), max_size=30)


def parse(text, *columns):
    return Template.parse(text, columns=columns, source="reviews.csv")


def fill(template, **columns):
    return list(template.fill(pa.record_batch({name: pa.array(cells) for name, cells in columns.items()})))


def form(**options):
    return build_form(parse("{a}", "a"), **{"model": "claude-haiku-4-5", "max_tokens": 16, **options})


def params(**options):
    (request,) = form(**options).render(pa.record_batch({"a": ["Hi"]}))
    return request.params.decode()


# Templates


@given(st.lists(st.tuples(NAMES, PLAIN, TEXTS), min_size=1, max_size=4), PLAIN)
def test_a_filled_template_is_its_texts_with_the_cells_in_between(parts, first):
    cells = {name: cell for name, _, cell in parts}
    template = parse(first + "".join(f"{{{name}}}{text}" for name, text, _ in parts), *cells)
    (filled,) = fill(template, **{name: [cell] for name, cell in cells.items()})
    if all(not cell or cell.isspace() for cell in cells.values()):
        assert filled.error_type == "missing_prompt"
    else:
        assert filled == first + "".join(cells[name] + text for name, text, _ in parts)


@given(BRACES)
def test_any_text_with_braces_either_parses_or_is_refused(text):
    try:
        template = parse(text, "a", "b")
    except InputError:
        assert "{a}" not in text or "{" in text.replace("{a}", "").replace("{b}", "")
    else:
        assert set(template.fields) <= {"a", "b"}
        assert "".join(map("{}{{{}}}".format, template.texts, template.fields)) + template.texts[-1] == text


@given(BRACES)
def test_filling_twice_never_reads_braces_out_of_a_cell(cell):
    (filled,) = fill(parse("<{a}>", "a", "b"), a=[f"{cell}{{b}}"], b=["never"])
    assert filled == f"<{cell}{{b}}>"


def test_json_examples_need_no_doubled_braces():
    template = parse('Answer as {"sentiment": "good"} or {}: {text}', "text")
    assert fill(template, text=["Nice"]) == ['Answer as {"sentiment": "good"} or {}: Nice']


def test_a_field_stands_within_other_braces():
    assert fill(parse('{"text": {text}}', "text"), text=["Nice"]) == ['{"text": Nice}']


@pytest.mark.parametrize("name", ["two words", "a.b", "élan", "名前", "🙂", "1", "class", "a-b"])
def test_any_column_may_be_a_field(name):
    assert fill(parse(f"<{{{name}}}>", name), **{name: ["cell"]}) == ["<cell>"]


def test_a_field_may_stand_twice():
    assert fill(parse("{a}{b}{a}", "a", "b"), a=["1"], b=["2"]) == ["121"]


def test_a_template_without_a_field_says_how_to_write_one():
    with pytest.raises(InputError, match=r"'Hello!' has no field.*\{id\}; reviews.csv has: id, text\.$"):
        parse("Hello!", "id", "text")


def test_an_unknown_field_is_named_with_the_columns_there_are():
    with pytest.raises(UnknownFieldError, match=r"field \{txt\} is no column of reviews.csv. It has: id, text\."):
        parse("Label {txt}", "id", "text")


def test_half_a_character_in_a_template_is_named_by_its_position():
    with pytest.raises(InputError, match=r"The template holds half a character .*position 4"):
        parse("a{a}\ud83d", "a")


def test_a_prompt_column_that_is_missing_names_those_there_are():
    with pytest.raises(MissingColumnError, match=r"No column 'txt' in reviews.csv. It has: id, text\."):
        Template.of_column("txt", schema=pa.schema({"id": pa.int64(), "text": pa.string()}), source="reviews.csv")


def test_a_prompt_column_that_is_not_text_says_its_type_and_the_way_out():
    with pytest.raises(InputError, match=r"'id' of reviews.csv is int64, not text. .*template='\{id\}'"):
        Template.of_column("id", schema=pa.schema({"id": pa.int64()}), source="reviews.csv")


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string()), pa.null()]
)
def test_every_kind_of_text_may_be_the_prompt(kind):
    template = Template.of_column("text", schema=pa.schema({"text": kind}), source="reviews.csv")
    assert template == Template(("", ""), ("text",))


@pytest.mark.parametrize("blank", [None, "", " ", "\n\t\r", "\u2003\u3000"])
def test_a_blank_prompt_is_not_sent(blank):
    column = Template(("", ""), ("a",))
    assert [row.error_type for row in fill(column, a=[blank, "x"])[:1]] == ["missing_prompt"]
    assert [row.error_type for row in fill(parse("Label: {a}", "a"), a=[blank, "x"])[:1]] == ["missing_prompt"]


def test_a_null_among_cells_that_are_not_blank_is_named_by_its_column():
    (filled,) = fill(parse("{a} or {b}", "a", "b"), a=["x"], b=pa.array([None], pa.string()))
    assert filled.error_type == "missing_field"
    assert "'b'" in filled.error_message


@pytest.mark.parametrize("text", ["\x00", "a\x00b", "🙂", "e\u0301", "\ufeff", "a\u2028", "a\r\n", "x" * 1_000_000])
def test_a_prompt_travels_as_it_is(text):
    (request,) = form().render(pa.record_batch({"a": [text]}))
    assert json.loads(request.params)["messages"] == [{"role": "user", "content": text}]


def test_text_that_is_not_unicode_is_that_rows_own_trouble():
    broken = pa.array([b"fine", b"\xed\xa0\x80", b"\xff", b"fine too"]).view(pa.string())
    requests = list(form().render(pa.record_batch({"a": broken})))
    assert [isinstance(request, Request) for request in requests] == [True, False, False, True]
    assert requests[1] == Unsendable("invalid_text", "The prompt's text is not valid UTF-8. Mend it in the input.")


# Cells of other types


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (pa.int8(), -1, "-1"),
        (pa.uint64(), 2**64 - 1, "18446744073709551615"),
        (pa.float64(), 0.1, "0.1"),
        (pa.float64(), -2.5e-7, "-2.5e-7"),
        (pa.bool_(), True, "true"),
        (pa.decimal128(9, 2), Decimal("1.50"), "1.50"),
        (pa.date32(), date(2026, 1, 2), "2026-01-02"),
        (pa.time32("s"), time(1, 2, 3), "01:02:03"),
        (pa.time64("us"), time(1, 2, 3, 500_000), "01:02:03.5"),
        (pa.timestamp("s"), datetime(2026, 1, 2, 3, 4, 5), "2026-01-02 03:04:05"),  # noqa: DTZ001  it has no zone
        (pa.timestamp("ns"), datetime(2026, 1, 2, 3, 4, 5, 120_000), "2026-01-02 03:04:05.12"),  # noqa: DTZ001
        (pa.timestamp("us", "UTC"), datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02 03:04:05Z"),
    ],
)
def test_a_cell_is_printed_by_one_rule_a_type(kind, value, text):
    printed = render_column(pa.array([value, None], kind), "a")
    assert printed.to_pylist() == [text, None]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_a_timestamp_reads_the_same_in_every_unit(unit):
    moments = pa.array([datetime(2026, 1, 2, 3, 4, 10), datetime(1969, 12, 31, 23, 50)], pa.timestamp(unit))  # noqa: DTZ001
    assert render_column(moments, "a").to_pylist() == ["2026-01-02 03:04:10", "1969-12-31 23:50:00"]


def test_categories_print_their_values():
    assert render_column(pa.array(["a", None, "a"]).dictionary_encode(), "a").to_pylist() == ["a", None, "a"]
    assert render_column(pa.array([7, 8, 7]).dictionary_encode(), "a").to_pylist() == ["7", "8", "7"]


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.int64()),
        pa.struct({"x": pa.int64()}),
        pa.map_(pa.string(), pa.int64()),
        pa.binary(),
        pa.binary(4),
        pa.large_binary(),
        pa.binary_view(),
        pa.dictionary(pa.int8(), pa.binary()),
    ],
)
def test_a_type_without_plain_text_is_refused(kind):
    with pytest.raises(InputError, match=r"Column 'a' is .*, which has no plain text. Turn it into text"):
        parse("{a}", "a").check_types(pa.schema({"a": kind}))


def test_every_type_with_plain_text_passes_the_check():
    kinds = {
        "a": pa.string(),
        "b": pa.int8(),
        "c": pa.timestamp("us", "UTC"),
        "d": pa.dictionary(pa.int8(), pa.int64()),
    }
    parse("{a}{b}{c}{d}", *kinds).check_types(pa.schema(kinds))


# Parameters


def test_params_go_in_one_order_whatever_order_they_are_given_in():
    expected = (
        '{"model":"claude-haiku-4-5","max_tokens":16,"system":"Be brief.","metadata":{"user_id":"u"},"top_k":5,'
        '"messages":[{"role":"user","content":"Hi"}]}'
    )
    assert params(params={"top_k": 5, "metadata": {"user_id": "u"}}, system="Be brief.") == expected
    assert params(system="Be brief.", params={"metadata": {"user_id": "u"}, "top_k": 5}) == expected


def test_nothing_inside_a_parameter_is_reordered():
    schema = {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "string"}}}
    assert json.dumps(schema, separators=(",", ":")) in params(params={"output_config": {"schema": schema}})


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_in_a_parameter_is_sent_as_it_is(text):
    assert json.loads(params(system=text))["system"] == text


@given(TEXTS, TEXTS)
def test_another_salt_or_another_prompt_is_another_request(one, other):
    ids = {form(salt=salt).header for salt in {one, other}}
    assert len(ids) == len({one, other})
    assert form(salt=one).prefix == form(salt=other).prefix


def test_an_empty_salt_is_a_salt():
    assert form(salt="").header != form(salt=None).header


def test_a_form_survives_the_ledger():
    made = form(system="é\x00", params={"metadata": {"x": "🙂"}}, salt="s")
    assert msgspec.json.decode(msgspec.json.encode(made), type=RequestForm) == made


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, object(), b"x", {"deep": [float("nan")]}])
def test_a_parameter_that_is_not_json_is_named(value):
    with pytest.raises(InputError, match=r"Parameter 'top_k' cannot be sent as JSON .* Use plain JSON values\."):
        form(params={"top_k": value})


def test_a_parameter_that_contains_itself_is_named():
    endless = []
    endless.append(endless)
    with pytest.raises(InputError, match="Parameter 'tools' cannot be sent as JSON"):
        form(params={"tools": endless})


@pytest.mark.parametrize("options", [{"system": "\ud800"}, {"params": {"x": ["\udfff"]}}, {"salt": "\ud800"}])
def test_half_a_character_in_a_parameter_is_named(options):
    with pytest.raises(InputError, match=r"Parameter '(system|x|salt)' holds half a character"):
        form(**options)


@pytest.mark.parametrize("key", ["model", "max_tokens", "system"])
def test_a_parameter_with_an_argument_of_its_own_points_to_it(key):
    with pytest.raises(InputError, match=f"params has '{key}'.*write {key}="):
        form(params={key: 1})


@pytest.mark.parametrize("key", ["messages", "stream"])
def test_a_parameter_that_makes_no_sense_in_a_batch_says_why(key):
    with pytest.raises(InputError, match=f"params has '{key}': "):
        form(params={key: 1})


@pytest.mark.parametrize("model", ["", "  ", None])
def test_a_model_must_be_named(model):
    with pytest.raises(InputError, match="Give a model's id"):
        form(model=model)


@pytest.mark.parametrize("max_tokens", [0, -1, 1.5, True, "16", None])
def test_max_tokens_is_a_whole_number(max_tokens):
    with pytest.raises(InputError, match=r"max_tokens is .* Give a whole number of at least 1"):
        form(max_tokens=max_tokens)


def test_a_blank_prompt_gives_no_request_and_the_others_keep_their_place():
    rendered = list(form().render(pa.record_batch({"a": ["x", None, "y"]})))
    assert [isinstance(request, Unsendable) for request in rendered] == [False, True, False]
