"""From what a user asks for to the bytes that are sent: what goes where, and what makes a request another one."""

import json
import zlib

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_pipeline.errors import InputError, MissingColumnError, UnknownFieldError
from claude_pipeline.forms import build_form
from claude_pipeline.prompts import Request, RequestForm
from claude_pipeline.values import Unsendable

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
MODEL = {"model": "claude-haiku-4-5", "max_tokens": 16}
KEPT = {"type": "ephemeral", "ttl": "1h"}
TOOL = {"name": "look", "input_schema": {"type": "object"}}
ROWS = {"a": ["Hi"], "b": ["there"]}


def form(rows=ROWS, **options):
    schema = pa.table(rows).schema
    chosen = {**MODEL, **options}
    if not {"prompt_column", "template", "messages_column", "images", "documents", "template_file"} & chosen.keys():
        chosen["template"] = "{a}"
    return build_form(schema, source="reviews.csv", **chosen)


def render(rows=ROWS, **options):
    (batch,) = pa.table(rows).to_batches()
    return list(form(rows, **options).render(batch))


def bodies(rows=ROWS, **options):
    return [json.loads(request.params) for request in render(rows, **options)]


def text(rows=ROWS, **options):
    (request,) = render(rows, **options)
    return request.params.decode()


def png():
    def chunk(kind, data):
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    header = b"\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")


# The order of things


def test_params_go_in_one_order_whatever_order_they_are_given_in():
    expected = (
        '{"model":"claude-haiku-4-5","max_tokens":16,"system":"Be brief.","metadata":{"user_id":"u"},"top_k":5,'
        '"messages":[{"role":"user","content":"Hi"}]}'
    )
    assert text(params={"top_k": 5, "metadata": {"user_id": "u"}}, system="Be brief.") == expected
    assert text(system="Be brief.", params={"metadata": {"user_id": "u"}, "top_k": 5}) == expected


def test_nothing_inside_a_parameter_is_reordered():
    schema = {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "string"}}}
    assert json.dumps(schema, separators=(",", ":")) in text(params={"output_config": {"schema": schema}})


@given(TEXTS)
def test_any_text_in_a_parameter_is_sent_as_it_is(value):
    assert bodies(params={"metadata": {"user_id": value}})[0]["metadata"]["user_id"] == value


def test_a_form_survives_the_ledger():
    made = form(
        {"a": ["x"], "chat": ["[]"], "m": ["x"], "p": [b"x"]},
        system="é{a}\x00",
        params={"metadata": {"x": "🙂"}},
        params_columns={"model": "m"},
        messages_column="chat",
        template="{a}",
        images=["p"],
        salt="s",
        betas=["b"],
    )
    assert msgspec.json.decode(msgspec.json.encode(made), type=RequestForm) == made


# Salt and betas


@given(TEXTS, TEXTS)
def test_another_salt_is_another_request_with_the_same_bytes(one, other):
    requests = [render(salt=salt)[0] for salt in {one, other}]
    assert len({request.address for request in requests}) == len({one, other})
    assert len({request.params for request in requests}) == 1


def test_an_empty_salt_is_a_salt():
    assert render(salt="")[0].address != render()[0].address


@given(st.lists(st.one_of(st.none(), TEXTS), min_size=1))
def test_a_salt_column_salts_each_row_as_salt_does_the_whole_job(salts):
    rendered = render({"a": ["Hi"] * len(salts), "draw": pa.array(salts, pa.string())}, salt_column="draw")
    assert [request.address for request in rendered] == [render(salt=salt)[0].address for salt in salts]


def test_numbers_salt_as_they_print():
    rendered = render({"a": ["Hi", "Hi"], "draw": [1, 2]}, salt_column="draw")
    assert [r.address for r in rendered] == [render(salt="1")[0].address, render(salt="2")[0].address]


def test_betas_make_another_request_in_whatever_order_they_are_given():
    one, other = (render(betas=betas)[0] for betas in (["b", "a"], ["a", "b"]))
    assert one == other
    assert one.address != render()[0].address
    assert one.params == render()[0].params


def test_a_salt_may_be_all_that_differs():
    first, second = render({"draw": [1, 2]}, template="Hi", salt_column="draw")
    assert first.params == second.params
    assert first.address != second.address


def test_a_salt_that_is_not_unicode_is_that_rows_own_trouble():
    salts = pa.array([b"one", b"\xff", None]).view(pa.string())
    first, broken, last = render({"a": ["Hi"] * 3, "draw": salts}, salt_column="draw")
    assert broken == Unsendable("invalid_text", "The text in column 'draw' is not valid UTF-8. Mend it in the input.")
    assert [first, last] == [render(salt="one")[0], render()[0]]


def test_requests_keep_their_rows_when_others_have_none_and_only_the_salt_differs():
    rows = {"draw": pa.array([b"one", b"\xff", None]).view(pa.string())}
    (batch,) = pa.table(rows).to_batches()
    ((numbers, requests),) = form(rows, template="Hi", salt_column="draw").ask(batch, np.arange(7, 10))
    kept, sendable = requests.sendable(numbers)
    assert kept.tolist() == [7, 9]
    assert list(sendable) == [next(iter(requests)), list(requests)[2]]


def test_salt_and_salt_column_exclude_each_other():
    with pytest.raises(InputError, match="one of salt= and salt_column="):
        form(salt="x", salt_column="a")


# System prompt


def test_a_system_prompt_may_have_fields():
    assert bodies(system="Be {b}.", template="{a}")[0]["system"] == "Be there."


def test_a_system_prompt_without_fields_is_the_same_text_for_all():
    assert form(system='Answer as {"label": "…"}.').parts[0].count(b"label") == 1


def test_a_blank_field_of_the_system_prompt_does_not_skip_the_row():
    assert bodies({"a": ["Hi"], "b": [""]}, system="{b}")[0]["system"] == ""


def test_a_null_field_of_the_system_prompt_is_named():
    (refused,) = render({"a": ["Hi"], "b": pa.array([None], pa.string())}, system="{b}")
    assert refused.error_type == "missing_field"
    assert "'b'" in refused.error_message


def test_a_system_prompt_may_be_blocks():
    blocks = [{"type": "text", "text": "Be brief."}]
    assert bodies(system=blocks)[0]["system"] == blocks


def test_an_unknown_field_of_the_system_prompt_is_named():
    with pytest.raises(UnknownFieldError, match=r"\{tone\}"):
        form(system="Be {tone}.")


def test_system_and_template_may_come_from_files(tmp_path):
    (tmp_path / "system.txt").write_text("Be {b}.\n", encoding="utf-8")
    (tmp_path / "prompt.txt").write_text("Say {a}.\n", encoding="utf-8")
    (body,) = bodies(system_file=tmp_path / "system.txt", template_file=tmp_path / "prompt.txt")
    assert (body["system"], body["messages"][0]["content"]) == ("Be there.", "Say Hi.")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"Cannot read the system prompt file .*none\.txt"):
        form(system_file=tmp_path / "none.txt")


# Parameters of each row


def test_a_parameter_of_a_row_is_the_same_request_as_one_of_the_job():
    rows = {"a": ["Hi", "Hi"], "model": ["claude-haiku-4-5", "claude-opus-5-5"], "limit": [16, 32]}
    mixed = render(rows, model=None, max_tokens=None, params_columns={"model": "model", "max_tokens": "limit"})
    one, other = render(), render(model="claude-opus-5-5", max_tokens=32)
    assert mixed == [*one, *other]


def test_a_null_parameter_falls_back_to_the_jobs_own():
    rows = {"a": ["Hi", "Hi"], "limit": [None, 32], "k": [None, 5]}
    first, second = bodies(rows, params_columns={"max_tokens": "limit", "top_k": "k"})
    assert (first["max_tokens"], "top_k" in first) == (16, False)
    assert (second["max_tokens"], second["top_k"]) == (32, 5)


def test_a_row_without_a_model_of_its_own_is_named_where_the_job_has_none():
    rows = {"a": ["Hi"], "model": pa.array([None], pa.string())}
    (refused,) = render(rows, model=None, params_columns={"model": "model"})
    assert (refused.error_type, "'model'" in refused.error_message) == ("missing_field", True)


def test_a_parameters_column_that_is_missing_names_those_there_are():
    with pytest.raises(MissingColumnError, match=r"'limit'.*a, b"):
        form(params_columns={"max_tokens": "limit"})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, object(), b"x", {"deep": [float("nan")]}])
def test_a_parameter_that_is_not_json_is_named(value):
    with pytest.raises(InputError, match=r"Parameter 'top_k' cannot be sent as JSON .* Use plain JSON values\."):
        form(params={"top_k": value})


def test_a_parameter_that_contains_itself_is_named():
    endless = []
    endless.append(endless)
    with pytest.raises(InputError, match="Parameter 'tools' cannot be sent as JSON"):
        form(params={"tools": endless})


@pytest.mark.parametrize(
    "options", [{"system": "\ud800"}, {"params": {"x": ["\udfff"]}}, {"salt": "\ud800"}, {"fill_null": "\ud800"}]
)
def test_half_a_character_in_a_parameter_is_named(options):
    with pytest.raises(InputError, match=r"(The system prompt|Parameter 'x'|salt|fill_null) holds half a character"):
        form(**options)


@pytest.mark.parametrize("model", ["", "  ", None])
def test_a_model_must_be_named(model):
    with pytest.raises(InputError, match="Give a model's id"):
        form(model=model)


@pytest.mark.parametrize("max_tokens", [0, -1, 1.5, True, "16", None])
def test_max_tokens_is_a_whole_number(max_tokens):
    with pytest.raises(InputError, match=r"max_tokens is .* Give a whole number of at least 1"):
        form(max_tokens=max_tokens)


# Messages


def test_a_blank_prompt_gives_no_request_and_the_others_keep_their_place():
    rendered = render({"a": ["x", None, "y"]})
    assert [isinstance(request, Unsendable) for request in rendered] == [False, True, False]


@pytest.mark.parametrize("said", ["\x00", "a\x00b", "🙂", "e\u0301", "\ufeff", "a\u2028", "a\r\n", "x" * 1_000_000])
def test_a_prompt_travels_as_it_is(said):
    assert bodies({"a": [said]})[0]["messages"] == [{"role": "user", "content": said}]


def test_text_that_is_not_unicode_is_that_rows_own_trouble():
    rendered = render({"a": pa.array([b"fine", b"\xed\xa0\x80", b"\xff", b"fine too"]).view(pa.string())})
    assert [isinstance(request, Request) for request in rendered] == [True, False, False, True]
    assert rendered[1] == Unsendable("invalid_text", "The text in column 'a' is not valid UTF-8. Mend it in the input.")


def test_a_conversation_is_sent_as_it_is():
    chat = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "?"},
    ]
    assert bodies({"chat": [chat]}, messages_column="chat")[0]["messages"] == chat


def test_the_template_is_the_next_turn_of_a_conversation():
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    rows = {"chat": [chat, []], "a": ["Why?", "How?"]}
    first, second = bodies(rows, messages_column="chat", template="{a}")
    assert first["messages"] == [*chat, {"role": "user", "content": "Why?"}]
    assert second["messages"] == [{"role": "user", "content": "How?"}]


def test_images_and_documents_stand_before_the_text():
    rows = {"a": ["What?"], "photo": [png()], "paper": [b"%PDF-1.7"]}
    (body,) = bodies(rows, images=["photo"], documents=["paper"], template="{a}")
    blocks = body["messages"][0]["content"]
    assert [block["type"] for block in blocks] == ["document", "image", "text"]
    assert blocks[-1]["text"] == "What?"


def test_one_instruction_for_all_images_needs_no_field():
    (body,) = bodies({"photo": [png()]}, images=["photo"], template="Describe it.")
    assert body["messages"][0]["content"][1] == {"type": "text", "text": "Describe it."}


def test_an_image_needs_no_text_at_all():
    (body,) = bodies({"photo": [png()]}, images=["photo"], system="Describe it.")
    assert [block["type"] for block in body["messages"][0]["content"]] == ["image"]


def test_an_image_that_is_left_out_leaves_the_text():
    rows = {"a": ["What?"], "photo": pa.array([None], pa.binary())}
    (body,) = bodies(rows, images=["photo"], template="{a}", fill_null="")
    assert body["messages"][0]["content"] == [{"type": "text", "text": "What?"}]


def test_a_row_with_nothing_to_say_is_not_sent():
    (refused,) = render({"photo": pa.array([None], pa.binary())}, images=["photo"], fill_null="")
    assert refused.error_type == "missing_prompt"


def test_images_need_a_turn_to_go_into():
    with pytest.raises(InputError, match="Give template= as well"):
        form({"chat": ["[]"], "photo": [png()]}, messages_column="chat", images=["photo"])


def test_a_column_is_either_images_or_documents():
    with pytest.raises(InputError, match="'photo' is in both"):
        form({"photo": [png()]}, images=["photo"], documents=["photo"])


def test_a_template_without_a_field_says_how_to_write_one():
    with pytest.raises(InputError, match=r"every row would ask the same.*\{a\}.*reviews\.csv has: a, b"):
        form(template="Hello")


def test_a_prompt_must_be_given_once():
    with pytest.raises(InputError, match="only one"):
        form(template="{a}", prompt_column="a")
    with pytest.raises(InputError, match="Give one of prompt_column="):
        build_form(pa.schema({"a": pa.string()}), source="x", **MODEL)


# Caching


def test_cache_marks_tools_system_and_the_fixed_beginning_alike():
    (body,) = bodies(cache="1h", system="Be brief.", template="Long words: {a}.", params={"tools": [TOOL, TOOL]})
    assert body["tools"] == [TOOL, {**TOOL, "cache_control": KEPT}]
    assert body["system"] == [{"type": "text", "text": "Be brief.", "cache_control": KEPT}]
    assert body["messages"][0]["content"] == [
        {"type": "text", "text": "Long words: ", "cache_control": KEPT},
        {"type": "text", "text": "Hi."},
    ]


def test_images_stand_behind_the_cached_beginning():
    rows = {"a": ["What?"], "photo": [png()]}
    (body,) = bodies(rows, cache="5m", images=["photo"], template="Long words. {a}")
    assert [block["type"] for block in body["messages"][0]["content"]] == ["text", "image", "text"]
    (body,) = bodies(rows, cache="5m", images=["photo"], template="Long words.")
    assert [block["type"] for block in body["messages"][0]["content"]] == ["text", "image"]


def test_a_beginning_behind_a_system_prompt_that_varies_is_not_marked():
    (body,) = bodies(cache="1h", system="Be {b}.", template="Long words: {a}.", params={"tools": [TOOL]})
    assert body["messages"][0]["content"] == "Long words: Hi."
    assert body["system"] == "Be there."


def test_a_mark_of_the_users_own_stays_as_it_is():
    own = {**TOOL, "cache_control": {"type": "ephemeral"}}
    assert bodies(cache="1h", params={"tools": [own]})[0]["tools"] == [own]


def test_caching_nothing_is_refused():
    with pytest.raises(InputError, match="cache= has nothing to hold"):
        form(cache="1h")


def test_a_cache_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match=r"cache is '2h'.*'5m' or '1h'"):
        form(cache="2h", system="x")


@given(TEXTS, TEXTS)
def test_caching_changes_how_a_prompt_is_cut_and_not_what_it_says(beginning, end):
    safe = beginning.replace("{", "(").replace("}", ")")
    (plain,) = bodies(template=safe + "{a}" + end.replace("{", "("), system="x")
    (marked,) = bodies(template=safe + "{a}" + end.replace("{", "("), system="x", cache="1h")
    content = marked["messages"][0]["content"]
    said = content if isinstance(content, str) else "".join(block["text"] for block in content)
    assert said == plain["messages"][0]["content"]


def test_every_sendable_row_is_a_request():
    assert all(isinstance(request, Request) for request in render())


def test_a_long_text_that_all_rows_share_is_held_for_a_few_rows_at_a_time():
    rows = {"a": [f"row {row}" for row in range(10)]}
    asked = form(rows, system="s" * 200_000, template="{a}" + "t" * 100_000)
    (batch,) = pa.table(rows).to_batches()
    pieces = list(asked.pieces(batch))
    assert [piece.num_rows for piece in pieces] == [3, 3, 3, 1]
    one_by_one = [request for row in range(10) for request in asked.fill(batch.slice(row, 1))]
    assert list(asked.render(batch)) == one_by_one


def test_local_files_are_read_row_by_row_and_addresses_are_not(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for cells, pieces in (["a.png"] * 3, [1, 1, 1]), (["https://example.com/a.png"] * 3, [3]):
        rows = {"photo": cells}
        asked = form(rows, images=["photo"], folder=tmp_path)
        (batch,) = pa.table(rows).to_batches()
        assert [piece.num_rows for piece in asked.pieces(batch)] == pieces
