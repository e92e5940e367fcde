"""A key stands in no file, log, message or title; the store is its owner's; and nothing is named by data."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from anthropic import Anthropic
from meddler import Answer, Meddler, Seen
from streams import whole_answers
from test_events import message, sse

import claude_pipeline as cp

KEY = "sk-ant-api03-a-key-like-no-other"
PASSWORD = "a-password-like-no-other"
OPTIONS = {"prompt_column": "text", "model": "claude-haiku-4-5", "max_tokens": 9}
RUN = """
import logging, sys, traceback
from pathlib import Path
import claude_pipeline as cp

logging.basicConfig(level=logging.DEBUG)
source, url = sys.argv[1:]
options = {"prompt_column": "text", "model": "claude-haiku-4-5", "max_tokens": 9, "base_url": url, "store": "store"}
for _ in range(30):
    try:
        job = cp.submit(source, **options)
        print(repr(job), job.status(), vars(job), job._session)
        if job.resume().state == "ended":
            break
    except cp.PipelineError:
        traceback.print_exc()
else:
    sys.exit("It did not end.")
job.write("out.parquet")
print(Path("/proc/self/cmdline").read_bytes(), Path("/proc/self/comm").read_text())
"""


@pytest.fixture
def table() -> pa.Table:
    return pa.table({"text": ["one", "two", "three"]})


def submit(url: str, store: Path, table: pa.Table, **options: object) -> cp.Job:
    return cp.submit(table, store=store, base_url=url, **(OPTIONS | options))


def files_with(secret: str, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


class Gossip(Meddler):
    """A gateway that refuses every fourth request, and repeats the key as it does."""

    def answer(self, seen: Seen, body: bytes) -> Answer:
        true = super().answer(seen, body)
        if len(self.seen) % 4:
            return true
        status = (403, 500, 429, 400)[len(self.seen) // 4 % 4]
        words = f"Refused: {seen.headers['authorization']}"
        return Answer(status, b'{"type":"error","error":{"type":"api_error","message":"%s"}}' % words.encode())


# The key


def test_the_key_is_in_no_file_log_traceback_repr_or_title_however_a_run_goes(sandbox, tmp_path, table):
    pa.parquet.write_table(table, tmp_path / "in.parquet")
    environment = os.environ | {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_LOG": "debug"}
    with Gossip(sandbox.url) as gateway:
        command = [sys.executable, "-c", RUN, "in.parquet", gateway.url]
        ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert KEY in str(gateway.seen)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "Refused: Bearer ***" in ran.stdout + ran.stderr
    assert "DEBUG" in ran.stderr
    assert KEY not in ran.stdout + ran.stderr
    assert len(list((tmp_path / "store").rglob("*.*"))) >= 4
    assert files_with(KEY, tmp_path) == []


@pytest.mark.parametrize("key", [f"{KEY}\n", f"{KEY}\r\nx: y", f"{KEY}…"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(sandbox, store, table, key):
    client = Anthropic(base_url=sandbox.url, api_key=key)
    with client, pytest.raises(cp.InputError, match="API key holds a line break") as refused:
        cp.submit(table, store=store, client=client, **OPTIONS)
    assert KEY not in str(refused.value)


# Passwords in addresses


class Doorman(Meddler):
    """A proxy that asks for a password, and has the key itself."""

    def answer(self, seen: Seen, body: bytes) -> Answer:
        assert seen.headers["authorization"].startswith("Basic ")
        return super().answer(replace(seen, headers=seen.headers | {"authorization": "Bearer any"}), body)


def with_password(url: str) -> str:
    return url.replace("://", f"://someone:{PASSWORD}@")


@pytest.mark.parametrize("user", [f"someone:{PASSWORD}", PASSWORD])
def test_a_base_url_with_credentials_is_not_kept_nor_shown(sandbox, store, table, user):
    with pytest.raises(cp.InputError, match="base URL holds credentials") as refused:
        submit(sandbox.url.replace("://", f"://{user}@"), store, table)
    assert PASSWORD not in str(refused.value)
    assert not store.exists()


def test_a_password_in_the_environment_serves_and_is_kept_nowhere(sandbox, store, table, monkeypatch):
    with Doorman(sandbox.url) as proxy:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", with_password(proxy.url))
        job = cp.submit(table, store=store, **OPTIONS)
        assert PASSWORD not in f"{job!r} {job.status()}"
        assert job.wait(poll_interval=0).status().unanswered == 0
    assert files_with(PASSWORD, store) == []


def test_a_server_that_cannot_be_reached_is_named_without_its_password(store, table, monkeypatch):
    with Meddler() as gone:
        url = with_password(gone.url)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", url)
    with pytest.raises(cp.ApiError, match=r"127\.0\.0\.1 could not be reached") as refused:
        cp.submit(table, store=store, **OPTIONS)
    assert PASSWORD not in str(refused.value)


def test_a_base_url_that_is_none_is_refused(store, table):
    with pytest.raises(cp.InputError, match="The base URL is none"):
        submit("http://[::1", store, table)


# Who may read a store


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def modes(store: Path) -> tuple[set[int], set[int]]:
    """Return the modes of a store's folders and of its files."""
    paths = [store, *store.rglob("*")]
    found = [(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in paths]
    return {mode for is_dir, mode in found if is_dir}, {mode for is_dir, mode in found if not is_dir}


def test_the_store_that_nobody_named_is_private(sandbox, tmp_path, table, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with umask(0o022):
        job = cp.submit(table, base_url=sandbox.url, **OPTIONS).wait(poll_interval=0)
        out = job.write(tmp_path / "out.parquet")
    assert modes(tmp_path / ".claude_pipeline") == ({0o700}, {0o600})
    assert stat.S_IMODE(out.stat().st_mode) == 0o644


@pytest.mark.parametrize("mask", [0o077, 0o027, 0o002])
def test_a_store_given_by_name_honours_the_umask(sandbox, store, table, mask):
    with umask(mask):
        submit(sandbox.url, store, table).wait(poll_interval=0)
    assert modes(store) == ({0o777 & ~mask}, {0o666 & ~mask})


# Nothing is named by data


WILD = ["../../../evil", "'; DROP TABLE jobs; --", "a/b\\c", "", "\x00", "{text}", "é" * 300, "msgbatch_1\n"]


def test_wild_ids_and_names_in_the_data_name_no_file_and_change_no_statement(sandbox, store, tmp_path):
    for name in WILD:
        wild = name.replace("\x00", "no column has a null") or "empty"
        table = pa.table({wild: WILD, "text": [f"{wild} {row}" for row in WILD]})
        job = submit(sandbox.url, store, table, id_column=wild, name=wild, salt=wild, prefix="c_")
        assert job.wait(poll_interval=0).status().unanswered == 0
    assert len(cp.list_jobs(store=store)) == len(WILD)
    assert {path.name for path in tmp_path.iterdir()} == {"store"}
    names = {path.name for path in store.rglob("*")}
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_.-") for name in names)


@pytest.mark.parametrize("batch_id", ["../../evil", "msgbatch_1/../../evil", "msgbatch_1\\n", "..", ""])
def test_a_batch_whose_id_could_name_another_file_is_no_batch(sandbox, store, table, batch_id):
    def rename(_seen: Seen, true: Answer) -> Answer | None:
        (ours,) = {request.batch_id for request in sandbox.requests()} or {"none"}
        return Answer(true.status, true.body.replace(ours.encode(), batch_id.encode()), true.headers)

    with Meddler(sandbox.url, rename) as meddler:
        job = submit(meddler.url, store, table)
        assert "is not the API's" in job.status().reason
        assert "is not the API's" in job.advance().reason
        meddler.meddle = lambda _seen, _true: None
        assert job.wait(poll_interval=0).status().unanswered == 0
    assert sandbox.usage()["batches"] == 1


def test_a_key_that_a_gateway_puts_into_a_stream_reaches_neither_the_row_nor_the_store(table, tmp_path):
    told = {"type": "error", "error": {"type": "overloaded_error", "message": f"No room for {KEY}"}}
    answers = iter([sse(message(), told)] * 3)
    heard = []
    with (
        cp.Sandbox() as sandbox,
        whole_answers(sandbox.url, answers) as url,
        Anthropic(base_url=url, api_key=KEY) as key,
    ):
        options = {**OPTIONS, "client": key, "store": tmp_path / "store", "max_attempts": 3}
        (row,) = cp.stream(table[:1], on_event=lambda _, event: heard.append(str(event)), **options)
    assert row.error_message == "No room for ***"
    assert any("retry" in event for event in heard)
    assert not [event for event in heard if "retry" in event and KEY in event]
    assert not files_with(KEY, tmp_path)
