"""Bad input: one clear error before anything is sent, nothing lost."""

import math
import os
import sqlite3

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import submit_to

import claude_pipeline as cp


@pytest.fixture
def refusal(ask, sandbox, store):
    """Return the message of a submit that is refused, once it is sure that it left nothing behind."""

    def submit(source, error=cp.InputError, **options):
        with pytest.raises(error) as caught:
            ask(source, **options)
        assert sandbox.usage()["batches"] == 0
        assert cp.list_jobs(store=store) == []
        assert [path for folder in ("spool", "jobs") for path in (store / folder).glob("*")] == []
        return str(caught.value)

    return submit


@pytest.fixture
def write(tmp_path):
    """Write a file and return its path as text."""

    def write(name, content):
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name)

    return write


# The table


def test_a_file_that_is_missing_is_named(refusal, tmp_path):
    assert str(tmp_path / "none.csv") in refusal(str(tmp_path / "none.csv"))


def test_a_glob_without_a_match_is_named(refusal, tmp_path):
    assert f"No file matches '{tmp_path}/*.csv'" in refusal(f"{tmp_path}/*.csv")


@pytest.mark.parametrize("name", ["broken.parquet", "broken.csv"])
def test_a_file_that_cannot_be_read_is_named(refusal, write, name):
    assert name in refusal(write(name, b"\xff\xfe\x00"))


@pytest.mark.parametrize(("name", "content"), [("a.csv", b""), ("a.csv", b"text\n"), ("a.parquet", b"")])
def test_an_empty_file_is_named(refusal, write, name, content):
    assert name in refusal(write(name, content))


def test_files_of_different_schemas_are_named_with_the_difference(refusal, write):
    message = refusal([write("a.csv", b"text\nx\n"), write("b.csv", b"words\nx\n")])
    assert "b.csv differs from " in message
    assert "no column 'text'" in message


def test_duplicate_column_names_are_named(refusal, write):
    assert "a.csv has two columns named 'text'. Give every column a name of its own." in refusal(
        write("a.csv", b"text,text\nx,y\n")
    )


def test_a_column_name_that_is_not_text_is_named(refusal):
    assert "column 7 is named by int, not by text" in refusal(pd.DataFrame({"text": ["x"], 7: ["y"]}))


def test_a_ragged_row_is_named_by_its_line(refusal, write):
    assert "line 3" in refusal(write("a.csv", b"id,text\n1,x\n2\n"))


@pytest.mark.parametrize(
    ("content", "prompts"),
    [
        (b'text\n"say ""hi"", now"\n', ['say "hi", now']),
        (b'text\n"two\nlines"\nx\n', ["two\nlines", "x"]),
        (b"\xef\xbb\xbftext\nx\n", ["x"]),
        (b'text\r\nx\r\n"a\r\nb"\r\n', ["x", "a\r\nb"]),
    ],
)
def test_a_csv_of_any_make_is_read_as_it_stands(ask, write, content, prompts):
    assert ask(write("a.csv", content)).wait(poll_interval=0).to_arrow()["text"].to_pylist() == prompts


def test_half_a_character_in_a_dataframe_is_named_by_column_and_row(refusal):
    message = refusal(pd.DataFrame({"text": pd.Series(["fine", "half \ud83d"], dtype=object)}))
    assert "Column 'text' of the DataFrame" in message
    assert "in row 2" in message


def test_conversations_of_two_shapes_in_a_dataframe_are_named_with_the_way_out(refusal):
    plain, blocks = "Hi", [{"type": "text", "text": "Hi"}]
    frame = pd.DataFrame({"chat": [[{"role": "user", "content": content}] for content in (plain, blocks)]})
    message = refusal(frame, messages_column="chat", prompt_column=None)
    assert "Column 'chat' of the DataFrame" in message
    assert "in row 2" in message
    assert message.endswith("lists that differ go as text, by json.dumps.")


def test_text_that_is_not_unicode_in_a_parquet_file_is_marked_and_the_others_go(ask, sandbox, tmp_path):
    broken = pa.array([b"fine", b"half \xed\xa0\xbd", b"\xff", b"fine too"]).view(pa.string())
    pq.write_table(pa.table({"text": broken}), tmp_path / "a.parquet")
    job = ask(str(tmp_path / "a.parquet")).wait(poll_interval=0)
    assert job.to_arrow()["error_type"].to_pylist() == [None, "invalid_text", "invalid_text", None]
    assert job.to_arrow()["text"].cast(pa.binary())[1].as_py() == b"half \xed\xa0\xbd"
    assert (sandbox.usage()["requests_accepted"], job.status().invalid) == (2, 2)


def test_a_row_whose_id_is_not_unicode_is_named_by_its_number(ask, tmp_path):
    broken = pa.array([b"one", b"\xff"]).view(pa.string())
    pq.write_table(pa.table({"id": broken, "text": broken}), tmp_path / "a.parquet")
    job = ask(str(tmp_path / "a.parquet"), id_column="id").wait(poll_interval=0)
    assert job.to_arrow()["error_message"][1].as_py().startswith("Row 2: ")


def test_a_row_that_is_marked_is_named_by_its_id(ask):
    table = pa.table({"id": ["one", "two"], "text": ["x", "." * 5_000]})
    job = ask(table, id_column="id", max_batch_bytes=4_000)
    assert job.to_arrow()["error_message"][1].as_py().startswith("Row 2 (id 'two'): The request has 5,")


# The columns


def test_a_prompt_column_that_is_missing_names_those_there_are(refusal):
    message = refusal(pa.table({"id": [1], "text": ["x"]}), prompt_column="txt")
    assert message == "No column 'txt' in the Arrow table. It has: id, text."


def test_a_prompt_column_that_is_not_text_says_the_way_out(refusal):
    message = refusal(pa.table({"id": [1]}), prompt_column="id")
    assert message.startswith("The prompt column 'id' of the Arrow table is int64, not text.")
    assert "template='{id}'" in message


def test_an_id_column_that_is_missing_is_named(refusal):
    assert refusal(["x"], id_column="id") == "No column 'id' in the Arrow table. It has: text."


@pytest.mark.parametrize("name", ["custom_id", "response", "model", "cost_usd", "attempts"])
def test_a_column_that_clashes_with_ours_is_named_with_the_way_out(refusal, name):
    message = refusal(pa.table({"text": ["x"], name: ["mine"]}))
    assert f"has a column '{name}'" in message
    assert "prefix=" in message


def test_a_prefix_that_makes_a_clash_is_refused_too(refusal):
    assert "'my_model'" in refusal(pa.table({"text": ["x"], "my_model": ["mine"]}), prefix="my_")


# The template


def test_a_template_without_a_field_is_refused(refusal):
    assert "has no field, so every row would ask the same" in refusal(["x"], template="Hello")


def test_an_unknown_field_is_named(refusal):
    message = refusal(["x"], template="Label {txt}")
    assert "{txt} is no column of the Arrow table. It has: text." in message


def test_a_field_whose_type_has_no_text_is_refused_before_there_is_a_job(refusal):
    table = pa.table({"tags": [[b"a"]]})
    assert "Column 'tags' holds binary, and bytes have no plain text" in refusal(table, template="{tags}")


def test_half_a_character_in_a_template_is_refused(refusal):
    assert "The template holds half a character" in refusal(["x"], template="\ud83d {text}")


@pytest.mark.parametrize(
    "options",
    [{"template": "{text}", "prompt_column": "text"}, {"template": "{text}", "template_file": "a.txt"}],
)
def test_a_prompt_comes_from_one_place(refusal, options):
    assert refusal(["x"], **options) == "Give one of prompt_column=, template= and template_file=, and only one."


@pytest.mark.parametrize("content", [None, b"\xff {text}"])
def test_a_template_file_that_cannot_be_read_is_named(refusal, write, tmp_path, content):
    path = str(tmp_path / "none.txt") if content is None else write("template.txt", content)
    assert refusal(["x"], template_file=path).startswith(f"Cannot read the template file {path}")


# Parameters


@pytest.mark.parametrize("value", [math.nan, math.inf, {"deep": [math.nan]}, object(), "\ud800"])
def test_a_parameter_that_cannot_be_sent_is_named(refusal, value):
    assert "Parameter 'metadata'" in refusal(["x"], params={"metadata": value})


@pytest.mark.parametrize("key", ["model", "max_tokens", "system", "messages", "stream"])
def test_a_parameter_that_has_another_place_points_to_it(refusal, key):
    assert f"params has '{key}'" in refusal(["x"], params={key: 1})


def test_half_a_character_in_the_system_prompt_is_named(refusal):
    assert "The system prompt holds half a character" in refusal(["x"], system="\ud800")


@pytest.mark.parametrize("options", [{"name": "\ud800"}, {"prefix": "\ud800"}])
def test_half_a_character_in_a_name_is_refused(refusal, options):
    assert "half a character" in refusal(["x"], **options)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_file_whose_name_is_not_unicode_is_named(refusal, write, suffix):
    name = os.fsdecode(b"r\xe9views." + suffix.encode())
    message = refusal(write(name, b"text\nx\n"))
    assert f"r\\udce9views.{suffix}' is not valid UTF-8. Rename" in message


@pytest.mark.parametrize(("option", "value"), [("model", ""), ("max_tokens", 0), ("limit", 0)])
def test_an_argument_that_makes_no_sense_is_named(refusal, option, value):
    assert refusal(["x"], **{option: value}).startswith(f"{option} is {value!r}")


@pytest.mark.parametrize(
    ("option", "value", "way_out"),
    [
        ("images", "text", "images=['text']"),
        ("documents", "text", "documents=['text']"),
        ("fill_null", 0, "fill_null='0'"),
        ("salt", 0, "salt='0'"),
        ("salt_column", 1, "salt_column='1'"),
        ("prompt_column", ["text"], "no text"),
        ("messages_column", ["text"], "no text"),
        ("system", 5, "a list of the API's text blocks"),
        ("system", ["Be brief."], "a list of the API's text blocks"),
        ("params", ["top_k"], "params={'stop_sequences': ['END']}"),
        ("params_columns", "model", "params_columns={'max_tokens': 'limit'}"),
        ("params_columns", ["model"], "params_columns={'max_tokens': 'limit'}"),
        ("max_cost_usd", "5", "max_cost_usd=25"),
        ("max_batch_requests", "5", "Give a whole number"),
        ("max_attempts", 1.5, "Give a whole number"),
        ("limit", "5", "Pass 1 or more"),
        ("name", 5, "Write '5'"),
    ],
)
def test_an_argument_of_another_kind_is_shown_with_the_one_to_write(refusal, option, value, way_out):
    message = refusal(["x"], **{option: value})
    assert message.startswith((f"{option} is {value!r}", f"{option} is the text {value!r}"))
    assert way_out in message


@pytest.mark.parametrize(
    ("option", "value", "way_out"),
    [
        ("max_batch_requests", 0, "from 1 to 100,000"),
        ("max_batch_requests", 100_001, "from 1 to 100,000"),
        ("max_batch_bytes", 0, "from 1 to 256,000,000"),
        ("max_batch_bytes", 256_000_001, "from 1 to 256,000,000"),
        ("max_queued_requests", 0, "at least 1"),
        ("max_attempts", 0, "at least 1"),
    ],
)
def test_a_limit_out_of_range_is_named_with_the_range(refusal, option, value, way_out):
    message = refusal(["x"], **{option: value})
    assert message.startswith(f"{option} is {value:,}. ")
    assert way_out in message


# Credentials and servers


def test_without_credentials_nothing_is_begun(store):
    with pytest.raises(cp.CredentialsError, match=r"No credentials .* Set ANTHROPIC_API_KEY"):
        cp.submit(pa.table({"text": ["x"]}), prompt_column="text", model="m", max_tokens=1, store=store)
    assert not store.exists()


def test_a_server_on_this_machine_needs_no_key(sandbox, store):
    table = pa.table({"text": ["x"]})
    options = {"prompt_column": "text", "model": "claude-haiku-4-5", "max_tokens": 9, "store": store}
    assert cp.submit(table, base_url=sandbox.url, **options).wait(poll_interval=0).status().unanswered == 0


def test_credentials_that_are_refused_are_told_in_the_words_of_the_api(refusal, sandbox):
    sandbox.fail_next("list", 401)
    assert refusal(["x"], cp.ApiError).startswith("The API answered 401: ")


# Output


@pytest.mark.parametrize("name", ["answers", "answers.xlsx", "answers.csv.gz"])
def test_an_unknown_suffix_names_those_that_are_known(tmp_path, name):
    with pytest.raises(cp.OutputError, match=r"must be one of \.parquet, \.csv"):
        cp.check_output(tmp_path / name)


def test_an_output_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(cp.OutputError, match=f"There is no folder {tmp_path}/none .* Create it first"):
        cp.check_output(tmp_path / "none" / "answers.csv")


def test_an_output_that_is_a_folder_is_named(tmp_path):
    (tmp_path / "answers.csv").mkdir()
    with pytest.raises(cp.OutputError, match=r"answers\.csv is a folder"):
        cp.check_output(tmp_path / "answers.csv")


# The store


@pytest.fixture
def job(ask):
    return ask(["x"]).wait(poll_interval=0)


def test_an_unknown_job_names_the_nearest(job, store):
    with pytest.raises(cp.UnknownJobError, match=f"Did you mean {job.job_id}"):
        cp.open_job(job.job_id[:-2] + "zz", store=store)


def test_an_unknown_job_of_no_store_is_named_and_makes_none(store):
    with pytest.raises(cp.UnknownJobError, match=f"No job 'job_x' in the store {store}"):
        cp.open_job("job_x", store=store)
    assert not store.exists()


@pytest.mark.usefixtures("job")
def test_a_store_of_a_newer_version_is_left_alone(ask, sandbox, store):
    connection = sqlite3.connect(store / "ledger.sqlite")
    connection.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    connection.commit()
    connection.close()
    for act in (lambda: ask(["y"]), lambda: cp.list_jobs(store=store), lambda: cp.advance(store=store)):
        with pytest.raises(cp.StoreError, match=r"newer claude-pipeline \(schema 99; .*\)\. Upgrade it"):
            act()
    assert sandbox.usage()["batches"] == 1


@pytest.mark.parametrize("content", [b"", b"This is no database." * 99])
def test_a_ledger_that_is_no_database_is_named(sandbox, store, content):
    store.mkdir()
    (store / "ledger.sqlite").write_bytes(content)
    if content:
        with pytest.raises(cp.StoreError, match=r"Cannot use the ledger .*ledger\.sqlite"):
            submit_to(sandbox, ["x"], store=store)
    else:
        assert submit_to(sandbox, ["x"], store=store).wait(poll_interval=0).status().unanswered == 0


def test_a_store_that_is_a_file_is_a_store_error(sandbox, store):
    store.write_text("a file")
    with pytest.raises(cp.StoreError, match=f"Cannot write to {store}"):
        submit_to(sandbox, ["x"], store=store)
    assert sandbox.usage()["batches"] == 0


def test_an_input_that_was_changed_in_the_store_is_not_sent(store):
    with cp.Sandbox(batch_seconds=60) as sandbox:
        job = submit_to(sandbox, ["a", "b"], store=store, max_batch_requests=1, max_queued_requests=1)
        pq.write_table(pa.table({"text": ["a", "z"]}), store / "jobs" / job.job_id / "input.parquet")
        sandbox.advance_clock(61)
        with pytest.raises(cp.StoreError, match=r"input\.parquet was changed after it was planned"):
            job.wait(poll_interval=0)
        assert sandbox.usage()["requests_accepted"] == 1
