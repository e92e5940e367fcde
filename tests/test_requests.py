"""What people really send, from the table to what arrives at the API and comes back, as a user would write it."""

import base64
import json
import zlib

import pandas as pd
import pyarrow as pa
import pytest
from meddler import Answer, Meddler

import claude_pipeline as cp


def png(color=0):
    def chunk(kind, data):
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    header = b"\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00"
    pixels = zlib.compress(bytes([0, color]))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.fixture
def ask(sandbox, tmp_path):
    def ask(source, **options):
        place = {"store": tmp_path / "store", "base_url": sandbox.url}
        return cp.submit(source, **{"model": "claude-haiku-4-5", "max_tokens": 16, **place, **options})

    return ask


def sent(sandbox):
    return [json.loads(request.params) for request in sandbox.requests()]


# Four small pipelines


def test_two_columns_and_a_system_text(ask, sandbox):
    shop = pd.DataFrame({"item": ["tea", "cups"], "price": [2.5, 12.0]})
    frame = ask(shop, template="{item} costs {price}.", system="Answer in one word.").wait(poll_interval=0).to_pandas()
    assert frame.result_type.tolist() == ["succeeded", "succeeded"]
    assert {body["messages"][0]["content"] for body in sent(sandbox)} == {"tea costs 2.5.", "cups costs 12."}
    assert {body["system"] for body in sent(sandbox)} == {"Answer in one word."}


def test_captions_of_images_in_parquet(ask, sandbox, tmp_path):
    pd.DataFrame({"id": [1, 2], "photo": [png(1), png(2)]}).to_parquet(tmp_path / "photos.parquet")
    job = ask(tmp_path / "photos.parquet", template="Describe it.", images=["photo"]).wait(poll_interval=0)
    assert job.to_pandas().result_type.tolist() == ["succeeded", "succeeded"]
    images = {body["messages"][0]["content"][0]["source"]["data"] for body in sent(sandbox)}
    assert images == {base64.b64encode(png(color)).decode() for color in (1, 2)}


def test_conversations(ask, sandbox):
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    table = pd.DataFrame({"chat": [chat, []], "question": ["Who are you?", "And you?"]})
    frame = ask(table, messages_column="chat", template="{question}").wait(poll_interval=0).to_pandas()
    assert frame.result_type.tolist() == ["succeeded", "succeeded"]
    assert sorted(len(body["messages"]) for body in sent(sandbox)) == [1, 3]


def test_a_cached_instruction(ask, sandbox):
    words = " ".join(f"Rule {number} holds." for number in range(2000))
    table = pd.DataFrame({"text": [f"Case {number}" for number in range(50)]})
    job = ask(table, prompt_column="text", system=words, cache="1h").wait(poll_interval=0)
    assert job.to_pandas().cache_read_input_tokens.sum() > 0.9 * job.to_pandas().input_tokens.sum()
    assert all(body["system"][0]["cache_control"] == {"type": "ephemeral", "ttl": "1h"} for body in sent(sandbox))


# Rows that differ in more than text


def test_one_job_may_mix_models_and_limits(ask, sandbox):
    table = pd.DataFrame({"text": ["a", "b"], "model": ["claude-haiku-4-5", "claude-opus-5-5"], "limit": [5, 7]})
    columns = {"model": "model", "max_tokens": "limit"}
    job = ask(table, prompt_column="text", model=None, max_tokens=None, params_columns=columns).wait(poll_interval=0)
    assert {(body["model"], body["max_tokens"]) for body in sent(sandbox)} == {
        ("claude-haiku-4-5", 5),
        ("claude-opus-5-5", 7),
    }
    assert "{model}" in repr(job.status())


def test_several_samples_of_one_prompt_are_several_answers(ask, sandbox):
    table = pd.DataFrame({"text": ["Flip a coin."] * 3, "draw": [1, 2, 2]})
    status = ask(table, prompt_column="text", salt_column="draw").wait(poll_interval=0).status()
    assert (status.requests, status.duplicates) == (2, 1)
    assert len(sent(sandbox)) == 2


def test_betas_travel_as_a_header(sandbox, tmp_path):
    seen = []

    class Watcher(Meddler):
        def answer(self, request, body):
            seen.append((request.path, request.headers.get("anthropic-beta")))
            return super().answer(request, body)

    with Watcher(sandbox.url) as server:
        place = {"store": tmp_path / "store", "base_url": server.url, "model": "claude-haiku-4-5", "max_tokens": 16}
        cp.submit(pa.table({"text": ["a"]}), prompt_column="text", betas=["two", "one"], **place)
    assert ("/v1/messages/count_tokens?beta=true", "one,two") in seen
    assert ("/v1/messages/batches?beta=true", "one,two") in seen


def test_nulls_are_filled_where_that_is_wished(ask):
    table = pd.DataFrame({"text": ["a", "b"], "tone": ["kind", None]})
    filled = ask(table, template="Be {tone}: {text}", fill_null="plain").wait(poll_interval=0).to_pandas()
    assert filled.response.tolist() == ["Be kind: a", "Be plain: b"]
    refused = ask(table, template="Be {tone}: {text}").wait(poll_interval=0).to_pandas()
    assert refused.error_type.tolist()[1] == "missing_field"


# Files


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    return pd.DataFrame({"photo": [f"{number}.png" for number in range(3)]})


CAPTION = {"template": "Describe it.", "images": ["photo"]}


def test_images_may_be_paths_from_the_working_folder(ask, sandbox, photos):
    assert ask(photos, **CAPTION).wait(poll_interval=0).status().unanswered == 0
    images = {body["messages"][0]["content"][0]["source"]["data"] for body in sent(sandbox)}
    assert images == {base64.b64encode(png(color)).decode() for color in range(3)}


def test_a_file_that_is_not_there_is_its_rows_own_trouble(ask, photos, tmp_path):
    (tmp_path / "1.png").unlink()
    frame = ask(photos, **CAPTION).wait(poll_interval=0).to_pandas()
    assert frame.result_type.isna().tolist() == [False, True, False]
    assert frame.error_type[1] == "missing_file"
    assert "1.png" in frame.error_message[1]


@pytest.mark.parametrize("changed", [[1], [0, 2], [0, 1, 2]])
def test_a_file_that_changes_between_plan_and_send_is_not_sent(ask, sandbox, photos, tmp_path, changed):
    sandbox.fail_next("create", 429)
    job = ask(photos, **CAPTION)
    for number in changed:
        (tmp_path / f"{number}.png").write_bytes(png(100 + number))
    job.resume()
    frame = job.wait(poll_interval=0).to_pandas()
    assert [at for at, error in enumerate(frame.error_type) if error == "changed_input"] == changed
    assert frame.result_type.notna().sum() == 3 - len(changed)
    assert "Submit again" in frame.error_message[changed[0]]
    assert sandbox.usage()["requests_accepted"] == 3 - len(changed)


def test_submitting_again_asks_with_the_file_as_it_is(ask, sandbox, photos, tmp_path):
    first = ask(photos, **CAPTION).wait(poll_interval=0)
    assert ask(photos, **CAPTION).job_id == first.job_id
    (tmp_path / "1.png").write_bytes(png(200))
    second = ask(photos, **CAPTION).wait(poll_interval=0)
    assert second.job_id != first.job_id
    assert (second.status().reused, second.status().requests) == (2, 1)
    assert sandbox.usage()["requests_accepted"] == 4


# Preflight


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "gpt-4"}, "gpt-4"),
        ({"params": {"tools": [{"name": "bad name", "input_schema": {"type": "object"}}]}}, "tools.0"),
        ({"params": {"thinking": {"type": "enabled", "budget_tokens": 1}}}, "budget_tokens"),
    ],
)
def test_what_the_api_would_refuse_is_refused_before_anything_is_sent(ask, sandbox, options, words):
    with pytest.raises(
        cp.InputError, match=r"^Row 2 of the DataFrame would be refused: The API answered 4\d\d: .*\. Nothing was sent"
    ) as refused:
        ask(pd.DataFrame({"text": [None, "a"]}), prompt_column="text", **options)
    assert words in str(refused.value)
    assert "preflight=False" in str(refused.value)
    assert sandbox.usage()["requests_accepted"] == 0
    assert cp.list_jobs(store=None) == []


def test_each_model_of_the_first_rows_is_looked_at(ask):
    table = pd.DataFrame({"text": ["a", "b", "c"], "model": ["claude-haiku-4-5", "claude-haiku-4-5", "gpt-4"]})
    with pytest.raises(cp.InputError, match="Row 3 of the DataFrame"):
        ask(table, prompt_column="text", model=None, params_columns={"model": "model"})


TALKS = ['[{"role":"user","content":"Hi","to":"you"}]', '[{"role":"user","content":"Hi"}]']


def test_a_first_row_that_is_bad_alone_is_warned_of_and_the_others_go(ask):
    table = pd.DataFrame({"id": ["x", "y"], "talk": TALKS})
    with pytest.warns(cp.PipelineWarning, match=r"Row 1 \(id 'x'\) of the DataFrame would be refused: .*\. Others"):
        job = ask(table, messages_column="talk", id_column="id")
    assert job.wait(poll_interval=0).to_arrow()["error_type"].to_pylist() == ["invalid_request_error", None]


def test_rows_that_are_bad_alike_are_refused_by_the_name_of_the_first(ask, sandbox):
    table = pd.DataFrame({"id": ["x", "x2", "y"], "talk": [TALKS[0], TALKS[0], TALKS[0].replace("Hi", "Ho")]})
    with pytest.raises(cp.InputError, match=r"^Row 1 \(id 'x'\) of the DataFrame would be refused"):
        ask(table, messages_column="talk", id_column="id")
    assert len([entry for entry in sandbox.log() if "count_tokens" in entry.path]) == 2


def test_preflight_may_be_left_out(ask, sandbox):
    job = ask(pd.DataFrame({"text": ["a"]}), prompt_column="text", model="gpt-4", preflight=False)
    assert job.wait(poll_interval=0).to_pandas().error_type.tolist() == ["invalid_request_error"]
    assert not [entry for entry in sandbox.log() if "count_tokens" in entry.path]


def test_the_same_submit_is_not_looked_at_again(ask, sandbox):
    for _ in range(2):
        ask(pd.DataFrame({"text": ["a"]}), prompt_column="text").wait(poll_interval=0)
    assert len([entry for entry in sandbox.log() if "count_tokens" in entry.path]) == 1


def test_a_server_that_counts_no_tokens_holds_nothing_up(sandbox, tmp_path):
    class Plain(Meddler):
        def answer(self, seen, body):
            if "count_tokens" in seen.path:
                error = {"type": "error", "error": {"type": "not_found_error", "message": "Not Found"}}
                return Answer(404, json.dumps(error).encode(), {"content-type": "application/json"})
            return super().answer(seen, body)

    with Plain(sandbox.url) as server:
        table = pa.table({"text": ["a"]})
        options = {"model": "claude-haiku-4-5", "max_tokens": 16, "store": tmp_path / "store", "base_url": server.url}
        assert cp.submit(table, prompt_column="text", **options).wait(poll_interval=0).status().unanswered == 0


@pytest.mark.parametrize(("rules", "words"), [(20, "nothing will be cached"), (700, "the hit rate")])
def test_a_prefix_that_is_too_short_to_be_cached_is_warned_of(ask, rules, words):
    system = " ".join(f"Rule {number} holds." for number in range(rules))
    with pytest.warns(cp.PipelineWarning, match=words) as warned:
        ask(pd.DataFrame({"text": ["a"]}), prompt_column="text", system=system, cache="5m")
    assert warned[0].filename == __file__
