"""Templates: what is a field, what is text, and what becomes of a row without a value."""

import json
import re

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_pipeline.errors import InputError, MissingColumnError, UnknownFieldError
from claude_pipeline.templates import BLANK, Template, missing_field
from claude_pipeline.values import Unsendable

LETTERS = st.characters(exclude_categories=["Cs"])
TEXTS = st.text(LETTERS)
PLAIN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="{}"), max_size=8)
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="{}\x00"), min_size=1, max_size=6)
BRACES = st.text(st.sampled_from('{}ab c":\n1'), max_size=30)


def parse(text, *columns, **options):
    return Template.parse(text, columns=columns, source="reviews.csv", **options)


def batch(**columns):
    return pa.record_batch(
        {name: cells if isinstance(cells, pa.Array) else pa.array(cells) for name, cells in columns.items()}
    )


def fill(template, **columns):
    return list(template.fill(batch(**columns)))


def text(*cells):
    return pa.array(cells, pa.string())


# Fields


@given(st.lists(st.tuples(NAMES, PLAIN, TEXTS), min_size=1, max_size=4), PLAIN)
def test_a_filled_template_is_its_texts_with_the_cells_in_between(parts, first):
    cells = {name: cell for name, _, cell in parts}
    template = parse(first + "".join(f"{{{name}}}{text}" for name, text, _ in parts), *cells)
    (filled,) = fill(template, **{name: [cell] for name, cell in cells.items()})
    if all(not cell or cell.isspace() for cell in cells.values()):
        assert filled == BLANK
    else:
        assert filled == first + "".join(cells[name] + text for name, text, _ in parts)


@given(BRACES)
def test_any_text_with_braces_parses_unless_it_names_what_is_no_column(text):
    unknown = re.search(r"\{(?!a\})[abc][abc1]*\}", text)
    try:
        template = parse(text, "a")
    except UnknownFieldError:
        assert unknown
    else:
        assert not unknown
        assert set(template.fields) <= {"a"}
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


def test_fields_of_many_types_stand_side_by_side():
    template = parse("{n} of {tags}: {when}", "n", "tags", "when")
    cells = {"n": pa.array([3.0, 0.5]), "tags": pa.array([["red", None], []]), "when": pa.array([0, 86_400])}
    cells["when"] = cells["when"].cast(pa.timestamp("s", "UTC"))
    assert fill(template, **cells) == [
        '3 of ["red", null]: 1970-01-01 00:00:00Z',
        "0.5 of []: 1970-01-02 00:00:00Z",
    ]


def test_a_text_without_fields_is_the_same_in_every_row():
    assert fill(parse("Be brief.", "a"), a=["x", None]) == ["Be brief.", "Be brief."]


def test_a_template_without_a_field_says_how_to_write_one():
    with pytest.raises(InputError, match=r"'Hello!' has no field.*\{id\}; reviews.csv has: id, text\.$"):
        parse("Hello!", "id", "text").check_fields(columns=["id", "text"], source="reviews.csv")
    parse("Hello {id}!", "id", "text").check_fields(columns=["id", "text"], source="reviews.csv")


@pytest.mark.parametrize("what", ["The template", "The system prompt"])
def test_an_unknown_field_is_named_with_where_it_stands_and_the_columns_there_are(what):
    with pytest.raises(UnknownFieldError, match=rf"^{what}'s field {{txt}} is no column of r.* It has: id, text\."):
        parse("Label {txt}", "id", "text", what=what)


@pytest.mark.parametrize("what", ["The template", "The system prompt"])
def test_half_a_character_in_a_template_is_named_by_its_position(what):
    with pytest.raises(InputError, match=rf"{what} holds half a character .*position 4"):
        parse("a{a}\ud83d", "a", what=what)


@pytest.mark.parametrize(
    ("whole", "beginning"), [("You are: {a} {b}.", "You are: "), ("{a}{b}", ""), ("Hello", "Hello")]
)
def test_a_beginning_and_its_rest_make_the_whole(whole, beginning):
    template = parse(whole, "a", "b", fill_null="?")
    first, rest = template.split_beginning()
    assert first == beginning
    cells = batch(a=text("x", None), b=text("y", "z"))
    assert [first + filled for filled in rest.fill(cells)] == list(template.fill(cells))


# A column as the prompt


def test_a_prompt_column_that_is_missing_names_those_there_are():
    with pytest.raises(MissingColumnError, match=r"No column 'txt' in reviews.csv. It has: id, text\."):
        Template.of_column("txt", schema=pa.schema({"id": pa.int64(), "text": pa.string()}), source="reviews.csv")


@pytest.mark.parametrize("kind", [pa.int64(), pa.list_(pa.string()), pa.json_()])
def test_a_prompt_column_that_is_not_text_says_its_type_and_the_way_out(kind):
    with pytest.raises(InputError, match=r"'id' of reviews.csv is .*, not text. .*template='\{id\}'"):
        Template.of_column("id", schema=pa.schema({"id": kind}), source="reviews.csv")


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string()), pa.null()]
)
def test_every_kind_of_text_may_be_the_prompt(kind):
    template = Template.of_column("text", schema=pa.schema({"text": kind}), source="reviews.csv")
    assert template == Template(("", ""), ("text",))


# Rows without a value


@pytest.mark.parametrize("blank", [None, "", " ", "\n\t\r", "\u2003\u3000"])
@pytest.mark.parametrize("template", ["{a}", "Label: {a}", "{a} and {a}"])
def test_a_blank_prompt_is_not_sent_and_the_others_keep_their_place(template, blank):
    filled = fill(parse(template, "a"), a=["x", blank, "y"])
    assert [row == BLANK for row in filled] == [False, True, False]


def test_a_null_among_cells_that_are_not_blank_is_named_by_its_column():
    assert fill(parse("{a} or {b}", "a", "b"), a=text("x"), b=text(None)) == [missing_field("b")]
    assert missing_field("b").error_type == "missing_field"
    assert "'b'" in missing_field("b").error_message


@pytest.mark.parametrize("kind", [pa.int64(), pa.list_(pa.int64()), pa.timestamp("us", "UTC"), pa.bool_(), pa.null()])
def test_a_null_of_any_type_is_a_missing_field(kind):
    assert fill(parse("{a} or {b}", "a", "b"), a=text("x"), b=pa.nulls(1, kind)) == [missing_field("b")]
    assert fill(parse("{a} or {b}", "a", "b", fill_null="n/a"), a=text("x"), b=pa.nulls(1, kind)) == ["x or n/a"]


def test_a_null_within_a_list_is_no_missing_field():
    assert fill(parse("Rate {a}", "a"), a=pa.array([[None, 1]])) == ["Rate [null, 1]"]


@given(TEXTS, TEXTS)
def test_what_fills_a_null_stands_there_as_it_is(cell, filling):
    (filled,) = fill(parse("<{a}|{b}>", "a", "b", fill_null=filling), a=text(f"x{cell}"), b=text(None))
    assert filled == f"<x{cell}|{filling}>"


def test_only_nulls_are_filled():
    assert fill(parse("{a}{b}", "a", "b", fill_null="?"), a=text("", "x"), b=text("y", " ")) == ["y", "x "]


def test_an_empty_filling_lets_a_row_go_that_has_other_text():
    assert fill(parse("{a}: {b}", "a", "b", fill_null=""), a=text("x", None), b=text(None, "y")) == ["x: ", ": y"]


@pytest.mark.parametrize("filling", ["", " ", "\n"])
@pytest.mark.parametrize("template", ["{a}", "Label: {a}", "{a}{b}"])
def test_a_row_that_is_blank_after_filling_is_not_sent(template, filling):
    filled = fill(parse(template, "a", "b", fill_null=filling), a=text(None, "x"), b=text(" ", "y"))
    assert [row == BLANK for row in filled] == [True, False]


def test_a_filling_makes_a_prompt_of_nothing_but_nulls():
    column = Template.of_column("a", schema=pa.schema({"a": pa.string()}), source="reviews.csv", fill_null="Hello")
    assert fill(column, a=text(None)) == ["Hello"]
    assert fill(parse("{a}, {b}", "a", "b", fill_null="n/a"), a=text(None), b=text(None)) == ["n/a, n/a"]


# Text as it is


@pytest.mark.parametrize("cell", ["\x00", "a\x00b", "🙂", "e\u0301", "\ufeff", "a\u2028", "a\r\n", "x" * 1_000_000])
def test_text_travels_as_it_is(cell):
    assert fill(parse("{a}", "a"), a=[cell]) == [cell]
    assert fill(parse("<{a}>", "a"), a=[cell]) == [f"<{cell}>"]
    assert fill(parse("<{a}>", "a"), a=pa.array([[cell]])) == [f"<{json.dumps([cell], ensure_ascii=False)}>"]


@pytest.mark.parametrize("template", ["{a}", "<{a}>"])
@pytest.mark.parametrize("nested", [False, True])
def test_text_that_is_not_unicode_is_that_rows_own_trouble(template, nested):
    cells = pa.array([b"fine", b"\xed\xa0\x80", b"\xff", b"fine too"]).view(pa.string())
    if nested:
        cells = pa.ListArray.from_arrays(pa.array(range(5), pa.int32()), cells)
    filled = fill(parse(template, "a"), a=cells)
    broken = Unsendable("invalid_text", "The text in column 'a' is not valid UTF-8. Mend it in the input.")
    assert filled[1:3] == [broken, broken]
    assert all("fine" in row for row in (filled[0], filled[3]))


def test_the_column_whose_text_is_not_unicode_is_named():
    broken = pa.array([b"fine", b"\xff", b"fine"]).view(pa.string())
    filled = fill(parse("{a}{b}", "a", "b"), a=["x", "y", None], b=broken)
    assert filled[0] == "xfine"
    assert "column 'b'" in filled[1].error_message
    assert filled[2] == missing_field("a")


# Types


@pytest.mark.parametrize("kind", [pa.binary(), pa.list_(pa.binary()), pa.map_(pa.string(), pa.binary(4))])
def test_a_column_without_text_is_refused_before_any_row(kind):
    with pytest.raises(InputError, match=r"Column 'b' holds .*binary.*, and bytes have no plain text"):
        parse("{a}{b}", "a", "b").check_types(pa.schema({"a": pa.string(), "b": kind}))


def test_a_column_without_text_does_no_harm_where_it_is_no_field():
    parse("{a}", "a", "b").check_types(pa.schema({"a": pa.string(), "b": pa.binary()}))


def test_every_type_with_plain_text_passes_the_check():
    kinds = {
        "a": pa.string(),
        "b": pa.timestamp("us", "UTC"),
        "c": pa.dictionary(pa.int8(), pa.int64()),
        "d": pa.map_(pa.string(), pa.list_(pa.struct({"x": pa.uuid()}))),
    }
    parse("{a}{b}{c}{d}", *kinds).check_types(pa.schema(kinds))
