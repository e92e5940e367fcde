"""Files of the store that are damaged on disk: each is named, with the way out, and holds up nobody else."""

import pyarrow.parquet as pq
import pytest
import recovering
from recovering import LONG, ask, assert_all_answered

import claude_pipeline as cp
from claude_pipeline.store import Store

server, slow_server, folder = recovering.server, recovering.slow_server, recovering.folder


def spoil(path):
    """Garble the pages of a Parquet file, and leave its end, which says where they are."""
    magic, end = 4, pq.read_metadata(path).serialized_size + 8
    with path.open("r+b") as file:
        file.seek(magic)
        file.write(b"\xff" * (path.stat().st_size - magic - end))


def test_a_damaged_input_is_named_and_keeps_no_other_job_waiting(server, folder):
    server.fail_next("create", 429, retry_after=0)
    job = ask(server.url, folder)
    other = ask(server.url, folder, salt="other")
    spoil(Store(folder).input_path(job.job_id))
    with pytest.raises(cp.StoreError, match=rf"{job.job_id}/input.parquet cannot be read .* or submit anew"):
        cp.advance(store=folder, base_url=server.url)
    assert_all_answered(other)
    assert job.status().state == "in_progress"


def test_a_damaged_file_of_rows_answered_elsewhere_is_named_and_keeps_no_other_job_waiting(slow_server, folder):
    ask(slow_server.url, folder, rows=3)
    job = ask(slow_server.url, folder)
    other = ask(slow_server.url, folder, salt="other")
    spoil(Store(folder).foreign_path(job.job_id))
    slow_server.advance_clock(LONG)
    with pytest.raises(cp.StoreError, match=rf"{job.job_id}/foreign.parquet cannot be read"):
        cp.advance(store=folder, base_url=slow_server.url)
    assert_all_answered(other)
