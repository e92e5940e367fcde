"""Inputs on S3: the same table has the same requests, wherever it lies."""

import io
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import claude_pipeline as cp

LARGE = {"compression": "none", "use_dictionary": False}
ASKED = {"prompt_column": "text", "model": "claude-haiku-4-5", "max_tokens": 16, "exact": 0}


def parquet(table, **options):
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def end(job):
    return job.wait(poll_interval=0)


def test_a_file_on_s3_is_the_same_job_as_the_same_file_here(ask, bucket, tmp_path):
    data = parquet(pa.table({"text": ["a", None, "b"], "n": [1, 2, 3]}))
    (tmp_path / "reviews.parquet").write_bytes(data)
    here = end(ask(str(tmp_path / "reviews.parquet")))
    there = ask(bucket.put("2026/reviews.parquet", data))
    assert there.job_id == here.job_id
    assert there.to_arrow()["response"].to_pylist()[1] is None


@pytest.mark.parametrize("source", ["s3://reviews/in/*.csv", ["s3://reviews/in/a.csv", "s3://reviews/in/b.csv"]])
def test_globs_and_lists_of_csv_files_are_one_table(ask, bucket, source):
    bucket.put("in/a.csv", b"id,text\n00123,one\n")
    bucket.put("in/b.csv", b'id,text\n2,"two\nlines"\n')
    bucket.put("in/c.txt", b"no")
    answers = end(ask(source)).to_arrow()
    assert answers["id"].to_pylist() == ["00123", "2"]
    assert answers["result_type"].to_pylist() == ["succeeded", "succeeded"]


def test_a_local_file_and_one_on_s3_make_one_table(ask, bucket, tmp_path):
    (tmp_path / "a.parquet").write_bytes(parquet(pa.table({"text": ["a"]})))
    there = bucket.put("b.parquet", parquet(pa.table({"text": ["b"]})))
    assert end(ask([str(tmp_path / "a.parquet"), there])).to_arrow()["text"].to_pylist() == ["a", "b"]


def test_what_is_larger_than_a_block_is_read_whole(bucket):
    rows = [f"{number:06}" + "x" * 3_000 for number in range(7_000)]  # 21 MB, in three blocks
    table = pa.table({"text": rows})
    bucket.put("large.parquet", parquet(table, row_group_size=500, **LARGE))
    bucket.put("large.csv", ("text\n" + "\n".join(rows) + "\n").encode())
    first, second = (cp.estimate(bucket.url(name), **ASKED) for name in ("large.parquet", "large.csv"))
    assert first.rows == second.rows == 7_000
    assert first.batch_usd == second.batch_usd


def test_rows_are_streamed_from_s3(sandbox, bucket, store, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sandbox")
    url = bucket.put("few.csv", b"text\nhello\n")
    with cp.stream(
        url, prompt_column="text", model="claude-haiku-4-5", max_tokens=16, store=store, base_url=sandbox.url
    ) as rows:
        assert [row.result_type for row in rows] == ["succeeded"]


def message(source):
    with pytest.raises(cp.InputError) as caught:
        cp.estimate(source, **ASKED)
    assert "s3cr3t" not in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_read_says_which_place_it_was(bucket):
    bucket.put("in/a.parquet", parquet(pa.table({"text": ["a"]})))
    bucket.put("in/broken.csv", b"id,text\n1,a\n2,b,c\n")
    bucket.put("in/rot.parquet", b"rot")
    assert message("s3://reviews/no.csv") == "No object matches s3://reviews/no.csv."
    assert message("s3://none/a.csv") == "There is no bucket for s3://none/a.csv. Create it, or mend the name."
    assert "is a folder. Name its files with a glob: s3://reviews/in/*.parquet" in message("s3://reviews/in/")
    assert "line 3 of s3://reviews/in/broken.csv has 3 cells" in message("s3://reviews/in/broken.csv")
    assert message("s3://reviews/in/rot.parquet").startswith("Cannot read s3://reviews/in/rot.parquet: ")
    assert "begins with s3:// or gs://" in message("ftp://host/a.csv")
    assert "holds credentials" in message("s3://key:s3cr3t@reviews/a.csv")
    assert message("s3:///a.csv") == "s3:///a.csv names no bucket. Write s3://bucket/name."


REFUSALS = {
    "AccessDenied": "s3://reviews/a.csv may not be read with these credentials (AccessDenied). Have them allowed to",
    "ExpiredToken": "are not accepted (ExpiredToken). Mend AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "PermanentRedirect": "s3://reviews/a.csv is in another region (PermanentRedirect). Set AWS_DEFAULT_REGION",
    "RequestTimeTooSkewed": "finds this machine's clock wrong (RequestTimeTooSkewed). Set it right",
    "InvalidRequest": "s3://reviews/a.csv cannot be read (InvalidRequest): No. Run the same command again.",
}


@pytest.mark.parametrize("code", REFUSALS)
def test_a_refusal_says_the_place_the_code_and_the_way_out(bucket, s3_server, code):
    bucket.put("a.csv", b"text\na\n")
    s3_server.refuse = lambda method, *_: (403 if code == "AccessDenied" else 400, code) if method == "GET" else None
    assert REFUSALS[code] in message("s3://reviews/a.csv")


def test_what_is_mended_in_the_environment_holds_from_the_next_time_on(bucket, monkeypatch):
    url = bucket.put("a.csv", b"text\na\n")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert message(url).startswith("There are no credentials for s3://reviews/a.csv. Set AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    assert cp.estimate(url, **ASKED).rows == 1


def test_a_file_that_is_replaced_while_it_is_copied_is_not_taken(bucket, s3_server, ask):
    old, new = (parquet(pa.table({"text": [letter * 3_000] * 7_000}), **LARGE) for letter in "xy")
    url = bucket.put("a.parquet", old)
    reads = []

    def replace_midway(method, path, _query):
        if method == "GET" and path.endswith("a.parquet"):
            reads.append(path)
            if len(reads) == 2:  # the footer, and the first block
                bucket.put("a.parquet", new)

    s3_server.after = replace_midway
    with pytest.raises(cp.InputError, match=r"s3://reviews/a\.parquet"):
        ask(url)
    s3_server.open_door()
    assert end(ask(url)).status().rows == 7_000


def test_without_the_extra_the_error_names_it():
    program = (
        "import sys; sys.modules['s3fs'] = None; import claude_pipeline as cp\n"
        "try: cp.estimate('s3://bucket/a.csv', prompt_column='text', model='m', max_tokens=1)\n"
        "except cp.InputError as error: print(error)"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout == "s3:// needs s3fs: pip install 'claude-pipeline[s3]'\n"
