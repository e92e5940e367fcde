"""A store on S3, its ledger on a server: what a local one does, and no more lost."""

import os
import signal
import subprocess
import sys
import threading

import pytest
from conftest import submit_to
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from streams import stream_from

import claude_pipeline as cp
from claude_pipeline import copies
from claude_pipeline.places import remote_path

PROMPTS = st.lists(st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]), max_size=5)), min_size=1)
OURS = ["batch_id", "request_id"]  # which differ from one batch to the next


@pytest.fixture
def there(bucket, postgres, tmp_path, monkeypatch):
    """Name a store on S3 that does not exist yet, and let every store that the test does not tell have its ledger."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CLAUDE_PIPELINE_LEDGER", postgres.empty_database())
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sandbox")
    return bucket.url("store")


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Go to another machine, which has no copies."""
    return lambda: monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))


def end(job):
    return job.wait(poll_interval=0)


def reads(server):
    return [path for method, path, _ in server.requests if method == "GET" and path.endswith(".parquet")]


@settings(max_examples=3, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(PROMPTS, st.integers(1, 3))
def test_the_same_rows_have_the_same_answers_as_in_a_local_store(ask, there, tmp_path, prompts, size):
    options = {"max_batch_requests": size, "name": str(prompts)}
    here = end(ask(prompts, **options, store=tmp_path / "here", ledger="sqlite"))
    far = end(ask(prompts, **options, store=there))
    assert far.job_id == here.job_id
    assert far.to_arrow().drop_columns(OURS).equals(here.to_arrow().drop_columns(OURS))


def test_another_machine_goes_on_with_what_is_there_and_fetches_it_once(ask, there, bucket, s3_server, elsewhere):
    job = ask([*"abcab"], store=there, max_batch_requests=2)
    elsewhere()
    same = cp.open_job(job.job_id, store=there, base_url=job._client.base_url)
    assert end(same).to_arrow()["text"].to_pylist() == [*"abcab"]
    assert len(same.failed()) == 0
    fetched = reads(s3_server)
    assert len(fetched) == len(set(fetched))
    assert [status.state for status in cp.list_jobs(store=there)] == ["ended"]
    kept = [name for name in bucket.names() if not name.startswith("store/jobs/")]
    assert [name.partition("msgbatch")[0] for name in kept] == ["store/results/", "store/results/", "store/store.json"]


def test_without_a_ledger_on_a_server_it_says_what_is_needed(ask, there):
    with pytest.raises(cp.StoreError, match=r"s3://reviews/store needs a ledger in PostgreSQL.*CLAUDE_PIPELINE_LEDGER"):
        ask(["a"], store=there, ledger="sqlite")


LIFE = """
import sys, claude_pipeline as cp
cp.submit("s3://reviews/in.csv", prompt_column="text", model="claude-haiku-4-5", max_tokens=64, store=sys.argv[1],
          base_url=sys.argv[2]).wait(poll_interval=0)
"""


@pytest.mark.parametrize("named", ["input.parquet", "/results/"])
def test_killed_between_a_file_and_its_record_nothing_is_paid_twice(there, bucket, s3_server, sandbox, named):
    bucket.put("in.csv", b"text\na\nb\na\n")
    process = subprocess.Popen([sys.executable, "-c", LIFE, there, sandbox.url])

    def kill(method, path, query):
        if named in path and method == "POST" and "uploadId" in query:  # it has become an object
            process.send_signal(signal.SIGKILL)

    s3_server.after = kill
    assert process.wait() == -signal.SIGKILL
    s3_server.open_door()
    job = end(submit_to(sandbox, "s3://reviews/in.csv", store=there))
    assert job.to_arrow()["result_type"].to_pylist() == ["succeeded"] * 3
    assert [status.job_id for status in cp.list_jobs(store=there)] == [job.job_id]
    usage = sandbox.usage()
    assert (usage["answers_billed"], usage["answers_billed_twice"]) == (2, 0)


def test_results_that_are_refused_are_collected_once_they_are_taken(ask, there, s3_server, sandbox):
    job = ask(["a", "b"], store=there)
    s3_server.refuse = lambda *request: (403, "AccessDenied") if "/results/" in request[1] else None
    with pytest.raises(cp.StoreError, match=r"s3://reviews/store/results/\S+ may not be written with these"):
        job.wait(poll_interval=0)
    s3_server.open_door()
    assert end(job).status().counts.succeeded == 2
    assert sandbox.usage()["requests_accepted"] == 2


def test_a_stream_that_was_killed_is_kept_by_another_machine(there, bucket, sandbox, elsewhere):
    program = (
        "import sys, claude_pipeline as cp, pyarrow as pa\n"
        "for row in cp.stream(pa.table({'text': [*'abcdef']}), prompt_column='text', model='claude-haiku-4-5',\n"
        "    max_tokens=64, store=sys.argv[1], base_url=sys.argv[2], max_concurrency=1): print(row.row, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, there, sandbox.url], stdout=subprocess.PIPE, text=True)
    told = [int(process.stdout.readline()) for _ in range(3)]
    process.kill()
    process.communicate()
    elsewhere()
    rows = {row.row: row for row in stream_from(sandbox, [*"abcdef"], store=there)}
    assert all(rows[row].cost_usd == 0 for row in told)
    assert {row.result_type for row in rows.values()} == {"succeeded"}
    assert not [name for name in bucket.names() if name.endswith(".jsonl")]


def test_answers_of_a_stream_that_cannot_be_kept_end_it(there, s3_server, sandbox):
    s3_server.refuse = lambda method, path, _: (
        (403, "AccessDenied") if (method, path[-6:]) == ("PUT", ".jsonl") else None
    )
    with pytest.raises(cp.StoreError, match=r"\.jsonl may not be written with these credentials"):
        [*stream_from(sandbox, ["a"], store=there)]
    s3_server.open_door()
    (row,) = stream_from(sandbox, ["a"], store=there)
    assert row.result_type == "succeeded"


def test_what_is_missing_or_damaged_is_named_by_its_url(ask, there, bucket, elsewhere):
    job = end(ask(["a"], store=there))
    (results,) = [name for name in bucket.names() if "/results/" in name]
    elsewhere()
    bucket.put(results, b"rot")
    with pytest.raises(cp.StoreError, match=rf"s3://reviews/{results} is damaged"):
        job.to_arrow()
    bucket.client.delete_object(Bucket="reviews", Key=results)
    with pytest.raises(cp.StoreError, match=rf"s3://reviews/{results} is missing from the store"):
        job.to_arrow()


def test_prices_are_read_from_the_store(ask, there, bucket):
    bucket.put("store/prices.toml", b"[claude-haiku-4-5]\ninput = 1000\noutput = 1000\n")
    assert end(ask(["a"], store=there)).status().cost_usd > 0.0005


def test_what_is_pruned_is_removed_there(ask, there, bucket):
    end(ask(["a", "a"], store=there))
    assert cp.prune(older_than="0h", store=there).bytes > 0
    assert bucket.names() == ["store/store.json"]


def test_what_was_lost_is_recovered_there_once_and_found_by_the_same_submit(ask, there, bucket, sandbox, tmp_path):
    end(ask([*"abc"], store=tmp_path / "lost", ledger="sqlite"))
    assert cp.recover(store=there, base_url=sandbox.url).regained == 3
    kept = bucket.names()
    assert cp.recover(store=there, base_url=sandbox.url).known == 1
    assert bucket.names() == kept
    job = end(ask([*"abc"], store=there))
    assert (job.status().requests, job.to_arrow()["result_type"].to_pylist()) == (0, ["succeeded"] * 3)


@pytest.fixture
def place(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return remote_path(bucket.put("store/x.parquet", b"x" * 20_000_000))


def test_a_copy_is_whole_for_whoever_asks_at_once(place, bucket):
    found = []
    threads = [threading.Thread(target=lambda: found.append(copies.local_copy(place).read_bytes())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [b"x" * 20_000_000] * 4
    copy = copies.local_copy(place)
    copy.write_bytes(b"half")
    assert copies.local_copy(place).read_bytes() == b"x" * 20_000_000
    bucket.put("store/x.parquet", b"new")
    assert copies.local_copy(place).read_bytes() == b"new"


def test_copies_that_were_not_used_for_longest_make_room(place, bucket, monkeypatch):
    monkeypatch.setattr(copies, "MOST_BYTES", 25_000_000)
    old = copies.local_copy(place)
    os.utime(old, (1, 1))
    small = copies.local_copy(remote_path(bucket.put("store/y", b"y")))
    large = copies.local_copy(remote_path(bucket.put("store/z", b"z" * 10_000_000)))
    assert (old.exists(), small.exists(), large.exists()) == (False, True, True)


def test_a_cache_that_cannot_be_written_says_how_to_place_it(place, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    with pytest.raises(cp.StoreError, match=r"Set XDG_CACHE_HOME to a folder that can be written\."):
        copies.local_copy(place)
