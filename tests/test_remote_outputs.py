"""Answers on S3: whole or not at all, and refused before they cost anything."""

import csv
import io
import os
import signal
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import claude_pipeline as cp
from claude_pipeline import folders
from claude_pipeline.cli import main


def end(job):
    return job.wait(poll_interval=0)


def rows_of(bucket, name):
    return pq.read_table(io.BytesIO(bucket.get(name)))


def test_parquet_and_csv_hold_what_local_files_hold(ask, bucket, tmp_path):
    job = end(ask(pa.table({"id": [1, 2, 3], "text": ["a", None, "ü"], "tags": [["x"], [], None]})))
    for name in ("answers.parquet", "answers.csv"):
        here, there = job.write(tmp_path / name), job.write(bucket.url(f"out/{name}"))
        assert os.fspath(there) == bucket.url(f"out/{name}")
        assert bucket.get(f"out/{name}") == here.read_bytes()
    assert bucket.names() == ["out/answers.csv", "out/answers.parquet"]
    assert bucket.uploads() == []


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(folders.write_folder, "__kwdefaults__", {"rows": 2, "size": folders.PART_BYTES})


def parts(count):
    return [*(f"out/part-{number:05}.parquet" for number in range(count)), "out/_SUCCESS"]


@pytest.mark.usefixtures("small_parts")
def test_a_folder_is_written_in_parts_and_says_at_the_end_that_it_is_whole(ask, bucket):
    end(ask([*"abcde"])).write(bucket.url("out/"))
    assert sorted(bucket.names()) == sorted(parts(3))
    texts = [text for name in parts(3)[:-1] for text in rows_of(bucket, name)["text"].to_pylist()]
    assert texts == [*"abcde"]


@pytest.mark.usefixtures("small_parts")
def test_fewer_parts_leave_none_of_the_older_ones(ask, bucket, s3_server):
    end(ask([*"abcde"])).write(bucket.url("out/"))
    marked = []
    s3_server.after = lambda method, *_: marked.append("out/_SUCCESS" in bucket.names()) if method == "POST" else None
    end(ask([*"xyz"])).write(bucket.url("out/"))
    assert sorted(bucket.names()) == sorted(parts(2))
    assert rows_of(bucket, "out/part-00000.parquet")["text"].to_pylist() == ["x", "y"]
    assert marked[-2:] == [False, False]  # while the parts are replaced, no mark says that they are whole


@pytest.mark.usefixtures("small_parts")
def test_a_part_that_cannot_be_sent_leaves_the_older_folder_as_it_was(ask, bucket, s3_server):
    end(ask([*"abcde"])).write(bucket.url("out/"))
    before = {name: bucket.get(name) for name in bucket.names()}
    job = end(ask([*"uvwxyz"]))
    s3_server.refuse = lambda *request: (403, "AccessDenied") if "part-00002" in request[1] else None
    with pytest.raises(cp.OutputError, match=r"part-00002\.parquet may not be written with these credentials"):
        job.write(bucket.url("out/"))
    s3_server.open_door()
    assert {name: bucket.get(name) for name in bucket.names()} == before
    assert bucket.uploads() == []


def test_a_folder_with_something_else_in_it_is_not_replaced(ask, bucket):
    job = end(ask(["a"]))
    bucket.put("out/notes.txt", b"mine")
    with pytest.raises(cp.OutputError, match=r"The folder s3://reviews/out/ holds notes\.txt"):
        job.write(bucket.url("out/"))
    assert bucket.names() == ["out/notes.txt"]


@pytest.mark.parametrize("name", ["out/answers.parquet", "out/"])
def test_a_check_shows_nothing_and_leaves_nothing(bucket, name):
    assert os.fspath(cp.check_output(bucket.url(name))) == bucket.url(name)
    assert bucket.names() == []
    assert bucket.uploads() == []


def refused(url):
    with pytest.raises(cp.OutputError) as caught:
        cp.check_output(url)
    assert "s3cr3t" not in str(caught.value)
    return str(caught.value)


@pytest.mark.usefixtures("bucket")
def test_what_cannot_be_written_is_known_before_anything_is_sent(s3_server):
    s3_server.refuse = lambda method, *_: (403, "AccessDenied") if method in {"PUT", "POST"} else None
    told = "s3://reviews/answers.parquet may not be written with these credentials (AccessDenied)."
    assert refused("s3://reviews/answers.parquet").startswith(told)
    s3_server.open_door()
    assert (
        refused("s3://none/answers.csv") == "There is no bucket for s3://none/answers.csv. Create it, or mend the name."
    )
    assert "its suffix must be one of" in refused("s3://reviews/answers.txt")
    assert "begins with s3:// or gs://" in refused("hdfs://here/answers.csv")


@pytest.mark.usefixtures("bucket")
def test_an_endpoint_that_is_not_there_is_named_by_its_variable(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    told = refused("s3://reviews/answers.csv")
    assert told.startswith("s3://reviews/answers.csv cannot be reached (ConnectionRefusedError). Mend the network or")
    assert "AWS_ENDPOINT_URL" in told


def test_the_shell_sends_nothing_that_it_could_not_write(sandbox, bucket, s3_server, tmp_path, monkeypatch):
    (tmp_path / "in.csv").write_text("text\na\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sandbox")
    options = "--prompt-column text --model claude-haiku-4-5 --max-tokens 9 --poll-interval 0.05"
    command = ["run", "in.csv", *options.split(), "--base-url", sandbox.url, "--out", bucket.url("a.csv")]
    s3_server.refuse = lambda method, *_: (403, "AccessDenied") if method == "POST" else None
    failed = CliRunner().invoke(main, command)
    assert failed.exit_code == 1
    assert "s3://reviews/a.csv may not be written" in failed.stderr
    assert not (tmp_path / ".claude_pipeline").exists()
    s3_server.open_door()
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0
    assert "Wrote 1 row to s3://reviews/a.csv" in done.stderr
    assert [row["text"] for row in csv.DictReader(io.StringIO(bucket.get("a.csv").decode()))] == ["a"]


def test_a_process_that_is_killed_while_it_sends_leaves_no_object(ask, bucket, s3_server, store):
    job = end(ask(["x" * 1_000] * 50))
    program = (
        f"import claude_pipeline as cp; cp.open_job({job.job_id!r}, store={str(store)!r}).write('s3://reviews/a.csv')"
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    s3_server.after = lambda method, *_: process.send_signal(signal.SIGKILL) if method == "PUT" else None
    assert process.wait() == -signal.SIGKILL
    assert bucket.names() == []
    s3_server.open_door()
    job.write("s3://reviews/a.csv")
    assert bucket.names() == ["a.csv"]
