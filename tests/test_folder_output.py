"""Answers as a folder of Parquet files, whole or not at all."""

import subprocess
import sys
from functools import partial

import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import claude_pipeline as cp
from claude_pipeline.folders import write_folder
from claude_pipeline.outputs import _ParquetWriter


def end(job):
    return job.wait(poll_interval=0)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def job(ask):
    return end(ask(pa.table({"text": ["a", None, "b"], "tags": [["x"], [], None]})))


def test_a_path_that_ends_with_a_slash_becomes_a_folder_that_readers_know(job, tmp_path):
    assert job.write(f"{tmp_path}/answers/") == tmp_path / "answers"
    assert names(tmp_path / "answers") == ["part-00000.parquet"]
    assert pq.read_table(tmp_path / "answers").equals(job.to_arrow())
    assert pa.dataset.dataset(tmp_path / "answers").to_table().equals(job.to_arrow())
    assert pd.read_parquet(f"{tmp_path}/answers/")["response"].fillna("").tolist() == ["a", "", "b"]


def test_an_empty_folder_needs_no_slash(job, tmp_path):
    (tmp_path / "answers").mkdir()
    job.write(tmp_path / "answers")
    assert names(tmp_path / "answers") == ["part-00000.parquet"]


def test_a_folder_of_answers_is_replaced_as_a_whole(ask, job, tmp_path):
    folder = tmp_path / "answers"
    job.write(f"{folder}/")
    (folder / "part-00001.parquet").write_bytes((folder / "part-00000.parquet").read_bytes())
    other = end(ask(["other"]))
    other.write(folder)
    assert pq.read_table(folder).equals(other.to_arrow())
    assert names(tmp_path) == ["answers", "store"]


@pytest.mark.parametrize("name", ["notes.txt", "part-1.parquet", "part-00000.parquet.bak", ".hidden", "part-00000/x"])
def test_a_folder_with_anything_else_in_it_is_refused_and_left_as_it_was(job, tmp_path, name):
    foreign = tmp_path / "answers" / name
    foreign.parent.mkdir(parents=True)
    foreign.write_text("mine")
    for write in (cp.check_output, job.write):
        with pytest.raises(cp.OutputError, match=f"holds {name.partition('/')[0]}, which answers are not written to"):
            write(f"{tmp_path}/answers/")
    assert foreign.read_text() == "mine"
    assert names(tmp_path) == ["answers", "store"]


def test_a_file_is_not_replaced_by_a_folder(job, tmp_path):
    (tmp_path / "answers").write_text("mine")
    with pytest.raises(cp.OutputError, match="is a file, where a folder should be written"):
        job.write(f"{tmp_path}/answers/")


def test_a_folder_goes_nowhere_that_does_not_exist(tmp_path):
    with pytest.raises(cp.OutputError, match=r"There is no folder .*none to write answers to"):
        cp.check_output(f"{tmp_path}/none/answers/")


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.integers(0, 7), max_size=6), st.integers(1, 5))
def test_any_batches_become_files_of_so_many_rows_at_most(tmp_path, sizes, most):
    schema = pa.schema([("n", pa.int64())])
    batches = [pa.record_batch([list(range(size))], schema=schema) for size in sizes]
    write_folder(tmp_path / "out", batches, open_part=partial(_ParquetWriter, schema=schema), rows=most)
    parts = [pq.read_table(tmp_path / "out" / name) for name in names(tmp_path / "out")]
    assert pa.concat_tables(parts).equals(pa.Table.from_batches(batches, schema))
    assert [part.num_rows for part in parts[:-1]] == [most] * (len(parts) - 1)
    assert len(parts) == max(1, -(-sum(sizes) // most))


def test_files_end_when_they_are_large_enough(tmp_path):
    schema = pa.schema([("n", pa.int64())])
    group = pa.record_batch([list(range(600_000))], schema=schema)  # more than a row group, which is written at once
    write_folder(tmp_path / "out", [group] * 3, open_part=partial(_ParquetWriter, schema=schema), size=1)
    assert len(names(tmp_path / "out")) == 3


WRITE = """
import resource, sys
import claude_pipeline as cp

store, job_id, path = sys.argv[1:]
job = cp.open_job(job_id, store=store)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    job.write(path)
except cp.PipelineError as error:
    print(error)
"""


def test_a_disk_that_fills_up_leaves_the_old_folder_as_it_was(ask, job, store, tmp_path):
    folder = tmp_path / "answers"
    job.write(f"{folder}/")
    long = end(ask([f"row {number}" for number in range(3_000)]))
    words = [sys.executable, "-W", "error", "-c", WRITE, store, long.job_id, f"{folder}/"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.stderr, "Free some room" in done.stdout) == ("", True)
    assert pq.read_table(folder).equals(job.to_arrow())
    assert names(tmp_path) == ["answers", "store"]
