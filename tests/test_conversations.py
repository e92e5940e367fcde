"""Conversations: the same messages are the same bytes, whatever door they came through."""

import csv
import json
import math

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_pipeline.conversations import MessagesSlot
from claude_pipeline.errors import InputError, MissingColumnError
from claude_pipeline.forms import build_form
from claude_pipeline.sources import open_table
from claude_pipeline.values import Unsendable, encode_text

INT64 = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: not text.isspace())
HI = [{"role": "user", "content": "Hi"}]
URL = st.builds(dict, url=TEXTS)
INPUT_VALUES = st.builds(dict, n=INT64, x=FLOATS, all=st.lists(INT64, max_size=3))
BLOCKS = st.one_of(
    st.builds(dict, type=st.just("text"), text=TEXTS),
    st.builds(dict, type=st.just("image"), source=URL),
    st.builds(dict, type=st.just("tool_use"), input=INPUT_VALUES),
)
INPUT = pl.Struct({"n": pl.Int64, "x": pl.Float64, "all": pl.List(pl.Int64)})
BLOCK = pl.Struct({"type": pl.String, "text": pl.String, "source": pl.Struct({"url": pl.String}), "input": INPUT})


def conversations(contents):
    """Draw conversations that begin with the user."""
    turns = st.lists(
        st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": contents}),
        max_size=3,
    )
    first = st.fixed_dictionaries({"role": st.just("user"), "content": contents})
    return st.builds(lambda turn, others: [turn, *others], first, turns)


def fill(column, *, is_followed=False):
    slot = MessagesSlot("chat", is_followed=is_followed)
    batch = pa.record_batch({"chat": column})
    slot.check_types(batch.schema, source="chats.parquet")
    return list(slot.fill(batch))


def fill_from(source):
    slot = MessagesSlot("chat", is_followed=False)
    table = open_table(source)
    slot.check_types(table.schema, source=table.label)
    return [cell for batch in table.batches for cell in slot.fill(batch)]


def fill_text(*cells, is_followed=False):
    return fill(pa.array(cells, pa.string()), is_followed=is_followed)


def refuse(cell):
    """Return why a cell is refused, whichever way it is written."""
    (refusal,) = fill_text(cell if isinstance(cell, str) else json.dumps(cell))
    assert refusal.error_type == "invalid_messages"
    assert refusal.error_message.startswith("Column 'chat': ")
    return refusal.error_message


def in_json(messages):
    """Write messages as they should be sent."""
    ordered = [{"role": message["role"]} | message for message in messages]
    return json.dumps(ordered, ensure_ascii=False, separators=(",", ":"))[1:-1].encode()


def check_type(kind):
    MessagesSlot("chat", is_followed=False).check_types(pa.schema({"chat": kind}), source="chats.parquet")


# Doors


@given(st.lists(conversations(TEXTS), min_size=1, max_size=3))
def test_a_conversation_of_texts_is_the_same_bytes_through_every_door(chats):
    expected = [in_json(chat) for chat in chats]
    texts = [json.dumps(chat, indent=1) for chat in chats]
    assert fill(pa.array(chats)) == expected
    assert fill_text(*texts) == expected
    assert fill(pa.array(texts).dictionary_encode()) == expected
    assert fill_from(pd.DataFrame({"chat": chats})) == expected
    assert fill_from(pd.DataFrame({"chat": texts})) == expected
    assert fill_from(pl.DataFrame({"chat": chats})) == expected


@given(st.lists(conversations(st.lists(BLOCKS, min_size=1, max_size=3)), min_size=1, max_size=3))
def test_a_conversation_of_blocks_is_the_same_bytes_through_every_door(chats):
    expected = [in_json(chat) for chat in chats]
    message = pl.Struct({"role": pl.String, "content": pl.List(BLOCK)})
    assert fill(pa.array(chats)) == expected
    assert fill_text(*map(json.dumps, chats)) == expected
    assert fill_from(pd.DataFrame({"chat": chats})) == expected
    assert fill_from(pl.DataFrame({"chat": chats}, schema={"chat": pl.List(message)})) == expected


@given(chats=st.lists(conversations(TEXTS), min_size=1, max_size=3))
def test_a_csv_holds_conversations_as_json(tmp_path_factory, chats):
    path = tmp_path_factory.mktemp("csv") / "chats.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["chat"], *([json.dumps(chat)] for chat in chats)])
    assert fill_from(path) == [in_json(chat) for chat in chats]


@given(TEXTS)
def test_a_conversation_of_one_message_is_the_same_bytes_as_a_prompt(text):
    message = b'{"role":"user","content":' + encode_text(text) + b"}"
    assert fill(pa.array([[{"role": "user", "content": text}]])) == [message]
    assert fill_text(json.dumps([{"role": "user", "content": text}])) == [message]


MESSAGE = pa.struct({"role": pa.string(), "content": pa.string()})
WIDE = pa.struct({"role": pa.dictionary(pa.int8(), pa.string()), "content": pa.large_string()})
VIEWS = pa.struct({"role": pa.string_view(), "content": pa.string_view()})


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(MESSAGE),
        pa.large_list(WIDE),
        pa.list_(MESSAGE, 1),
        pa.list_view(MESSAGE),
        pa.large_list_view(VIEWS),
        pa.list_(pa.struct({"content": pa.string(), "role": pa.string(), "name": pa.int64()})),
    ],
    ids=str,
)
def test_every_layout_of_a_list_of_messages_is_read_alike(kind):
    assert fill(pa.array([None, HI, HI], kind).slice(1)) == [in_json(HI), in_json(HI)]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.json_()], ids=str)
def test_every_kind_of_text_may_hold_conversations(kind):
    assert fill(pa.array([json.dumps(HI)]).cast(kind)) == [in_json(HI)]


def test_role_and_content_come_first_and_all_else_in_its_order():
    chat = [{"name": "x", "content": "Hi", "role": "user", "at": 1}]
    ordered = [{"role": "user", "content": "Hi", "name": "x", "at": 1}]
    assert fill_text(json.dumps(chat)) == fill(pa.array([chat])) == [in_json(ordered)]


def test_nulls_of_structs_are_left_out_and_those_of_json_stay():
    kind = pa.list_(pa.struct({"role": pa.string(), "content": pa.string(), "name": pa.string()}))
    assert fill(pa.array([HI], kind)) == [in_json(HI)]
    assert fill_text(json.dumps([HI[0] | {"name": None}])) == [in_json([HI[0] | {"name": None}])]


def test_a_null_within_a_list_of_a_block_stays():
    chat = [{"role": "user", "content": [{"type": "tool_use", "input": {"all": [1, None, 3]}}]}]
    assert fill(pa.array([chat])) == fill_text(json.dumps(chat)) == [in_json(chat)]


@given(st.integers())
def test_whole_numbers_of_any_size_stay_exact(number):
    chat = [{"role": "user", "content": [{"type": "tool_use", "input": {"n": number}}]}]
    assert fill_text(json.dumps(chat)) == [in_json(chat)]


def test_numbers_and_dates_that_json_lacks_become_those_it_has():
    block = pa.struct(
        {"short": pa.float32(), "price": pa.decimal128(9, 2), "on": pa.date32(), "count": pa.decimal128(30, 0)}
    )
    kind = pa.list_(pa.struct({"role": pa.string(), "content": pa.list_(block)}))
    cells = {"short": 0.1, "price": "1.50", "on": pd.Timestamp("2026-01-02").date(), "count": "12345678901234567890123"}
    content = [{key: pa.scalar(cell).cast(block.field(key).type).as_py() for key, cell in cells.items()}]
    (filled,) = fill(pa.array([[{"role": "user", "content": content}]], kind))
    assert b'[{"short":0.1,"price":1.5,"on":"2026-01-02","count":12345678901234567890123}]' in filled


# Followed or not


def test_a_message_that_follows_gets_a_comma():
    assert fill_text(json.dumps(HI), is_followed=True) == [in_json(HI) + b","]


@pytest.mark.parametrize("cell", [None, "", " \n", "[]", "null"])
def test_without_messages_the_template_begins_and_without_a_template_the_row_is_blank(cell):
    assert fill_text(cell, is_followed=True) == [b""]
    (blank,) = fill_text(cell)
    assert blank.error_type == "missing_prompt"


@pytest.mark.parametrize("cells", [pa.array([None, []], pa.list_(MESSAGE)), pa.array([None, []]), pa.nulls(2)], ids=str)
def test_empty_lists_are_no_messages_either(cells):
    assert fill(cells, is_followed=True) == [b"", b""]
    assert [cell.error_type for cell in fill(cells)] == ["missing_prompt"] * 2


@pytest.mark.parametrize("is_followed", [True, False])
def test_the_assistant_may_have_the_last_word(is_followed):
    chat = [*HI, {"role": "assistant", "content": "Hello"}]
    assert fill_text(json.dumps(chat), is_followed=is_followed)[0].startswith(in_json(chat))


def test_a_system_message_may_only_configure():
    chat = [*HI, {"role": "system", "output_config": {"effort": "low"}}]
    assert fill_text(json.dumps(chat)) == [in_json(chat)]


def test_a_conversation_with_the_template_as_its_next_turn_is_the_same_request_as_one_that_ends_so():
    batch = pa.record_batch({"chat": [HI], "text": ["Bye"], "all": [[*HI, {"role": "user", "content": "Bye"}]]})
    asked = {"source": "chats.parquet", "model": "claude-haiku-4-5", "max_tokens": 16}
    followed = build_form(batch.schema, **asked, messages_column="chat", template="{text}")
    whole = build_form(batch.schema, **asked, messages_column="all")
    assert list(followed.render(batch)) == list(whole.render(batch))
    assert followed.columns == {"chat", "text"}


# Rows that cannot be sent


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("[{'role': 'user', 'content': 'Hi'}]", "is not JSON (Expecting property name"),
        ("[" * 100_000, "is not JSON (maximum recursion depth"),
        ("[NaN]", "is not JSON (NaN is none of its numbers). Write conversations with json.dumps, not with str."),
        ("Hello", "'Hello' is not JSON"),
        (HI[0], "is not a list. Write a list of {role, content}."),
        ("0", "'0' is not a list"),
        (["Hi"], "message 1 is 'Hi', not an object with role and content. Mend it"),
        ([*HI, None], "message 2 is null, not an object"),
        ([{"content": "Hi"}], "message 1 has role null. A role is one of: user, assistant, system."),
        ([*HI, {"role": "bot", "content": "Hi"}], "message 2 has role 'bot'. A role is one of"),
        ([{"role": ["user"], "content": "Hi"}], "message 1 has role ['user']"),
        (
            [{"role": "assistant", "content": "Hi"}],
            "message 1 is from the assistant, but the first must be from the user",
        ),
        ([{"role": "system", "content": "Be brief."}], "must be from the user. Give its text as system=."),
        ([{"role": "user"}], "message 1 has no content. Give it some, or remove the message."),
        ([{"role": "user", "content": None}], "message 1 has no content"),
        ([*HI, {"role": "user", "content": ""}], "message 2 has no content"),
        ([*HI, {"role": "user", "content": "\u2003\n"}], "message 2 has no content"),
        ([*HI, {"role": "user", "content": []}], "message 2 has no content"),
        ([*HI, {"role": "system"}], "message 2 has no content"),
        ([{"role": "user", "content": 1}], "message 1 has content 1. It must be text or a list of content blocks."),
        ([{"role": "user", "content": {"type": "text"}}], "message 1 has content {'type': 'text'}"),
        ([{"role": "user", "content": [{"type": "text"}, "Hi"]}], "block 2 of message 1 is 'Hi', not an object"),
        ('[{"role":"user","content":"\\ud83d"}]', "cannot be sent as JSON ('utf-8' codec can't encode"),
        ('[{"role":"user","content":[{"x":1e999}]}]', "cannot be sent as JSON (Out of range"),
    ],
)
def test_a_refusal_says_which_message_is_wrong_and_the_way_out(cell, reason):
    message = refuse(cell)
    assert reason in message
    assert message.endswith(".")
    assert len(message) < 300
    message.encode()


@given(
    st.recursive(
        st.none() | st.booleans() | INT64 | st.text(),
        lambda cells: st.lists(cells) | st.dictionaries(st.sampled_from(["role", "content", "x"]), cells),
    )
)
def test_any_json_is_either_sent_as_it_is_or_refused(value):
    (cell,) = fill_text(json.dumps(value))
    if not isinstance(cell, Unsendable):
        assert json.loads(b"[" + cell + b"]") == value


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_other_text_is_refused(text):
    (cell,) = fill_text(text)
    assert isinstance(cell, Unsendable)


def test_one_bad_row_leaves_the_others_alone():
    cells = fill(pa.array([HI, [{"role": "bot", "content": "Hi"}], None, HI], pa.list_(MESSAGE)))
    assert [type(cell) for cell in cells] == [bytes, Unsendable, Unsendable, bytes]


def test_text_that_is_not_unicode_marks_its_row_alone():
    content = pa.array([b"Hi", b"\xff", b"Hi"]).view(pa.string())
    messages = pa.StructArray.from_arrays([pa.array(["user"] * 3), content], ["role", "content"])
    cells = fill(pa.ListArray.from_arrays([0, 1, 2, 3], messages))
    assert [cells[0], cells[2]] == [in_json(HI)] * 2
    assert cells[1] == ("invalid_text", "The text in column 'chat' is not valid UTF-8. Mend it in the input.")


def test_a_number_that_is_none_is_refused_in_a_struct_too():
    block = [{"type": "tool_use", "input": {"x": math.nan}}]
    (cell,) = fill(pa.array([[{"role": "user", "content": block}]]))
    assert cell.error_type == "invalid_messages"


# Columns that cannot hold conversations


def test_a_column_that_is_missing_is_named_with_those_there_are():
    with pytest.raises(MissingColumnError, match=r"No column 'chat' in chats.parquet. It has: id."):
        MessagesSlot("chat", is_followed=True).check_types(pa.schema({"id": pa.int64()}), source="chats.parquet")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (pa.int64(), "is int64"),
        (pa.binary(), "is binary"),
        (MESSAGE, "is struct<role: string, content: string>"),
        (pa.list_(pa.string()), "is list<item: string>"),
        (pa.map_(pa.string(), pa.string()), "is map<string, string>"),
        (
            pa.list_(pa.struct({"from": pa.string(), "value": pa.string()})),
            "has messages without 'role'; they have: from, value",
        ),
        (pa.list_(pa.struct({"role": pa.string()})), "has messages without 'content'; they have: role"),
        (pa.list_(pa.struct({"role": pa.int8(), "content": pa.string()})), "has roles that are int8, not text"),
        (
            pa.list_(pa.struct({"role": pa.string(), "content": pa.int8()})),
            "has content that is int8, neither text nor",
        ),
        (
            pa.list_(pa.struct({"role": pa.string(), "content": pa.list_(pa.string())})),
            "has content that is list<item: string>, neither text nor a list of content blocks",
        ),
    ],
    ids=str,
)
def test_a_column_of_another_type_says_what_it_is_and_what_is_expected(kind, reason):
    with pytest.raises(InputError) as caught:
        check_type(kind)
    message = str(caught.value)
    assert message.startswith(f"The messages column 'chat' of chats.parquet {reason}")
    assert message.endswith(". A conversation is a list of {role, content}, or text with such a list as JSON.")


def test_bytes_in_a_block_are_refused_before_any_row():
    block = pa.struct({"type": pa.string(), "data": pa.binary()})
    with pytest.raises(InputError, match=r"Column 'chat' holds binary, which has no JSON. Write it as text."):
        check_type(pa.list_(pa.struct({"role": pa.string(), "content": pa.list_(block)})))
