"""Parquet files of the store, read in runs of rows."""

import tempfile
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from claude_pipeline.parquets import Reader, read_batches


def write(path, *, groups):
    """Write rows that hold their own numbers, long enough for several batches in a group of a thousand."""
    rows = 0
    schema = pa.schema({"row": pa.int64(), "long": pa.string(), "other": pa.string()})
    with pq.ParquetWriter(path, schema) as writer:
        for size in groups:
            numbers = list(range(rows, rows + size))
            longs = [f"{number:05000}" for number in numbers]
            writer.write_table(pa.table([numbers, longs, longs], schema=schema), row_group_size=max(1, size))
            rows += size
    return rows


def rows_of(batches):
    """List the rows of batches, each of which says itself where it begins."""
    rows = []
    for first, batch in batches:
        assert batch.schema.names == ["long", "row"]
        rows += batch.column("row").to_pylist()
        assert rows[-batch.num_rows :] == list(range(first, first + batch.num_rows))
    return rows


@given(
    st.lists(st.integers(0, 900), max_size=4),
    st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 700)), max_size=6),
    st.lists(st.integers(1, 1500), max_size=20),
)
def test_runs_of_rows_in_any_order_hold_all_that_was_asked_for(groups, wild, edges):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        count = write(path, groups=groups)
        assert rows_of(read_batches(path, {"row", "long"})) == list(range(count))
        reader = Reader(path, {"row", "long"})
        shards = [(start, stop - 1) for start, stop in pairwise(sorted({0, *edges}))]
        for first, last in [*shards, *((at, at + more) for at, more in wild), *shards]:
            rows = rows_of(reader.read(first, last))
            wanted = range(first, min(last + 1, count))
            assert set(wanted) <= set(rows)
            assert rows == list(range(rows[0], rows[-1] + 1)) if rows else not wanted


def test_a_run_behind_the_last_goes_on_where_that_ended(tmp_path):
    count = write(tmp_path / "rows.parquet", groups=[2000])
    reader = Reader(tmp_path / "rows.parquet", {"row", "long"})
    first = rows_of(reader.read(0, 999))
    assert reader.has_more
    then = rows_of(reader.read(1000, count - 1))
    assert (first[0], then[-1]) == (0, count - 1)
    assert 1000 - then[0] < len(first) // 2
    assert not reader.has_more


def test_a_run_that_was_given_up_is_not_gone_on_from(tmp_path):
    write(tmp_path / "rows.parquet", groups=[2000])
    reader = Reader(tmp_path / "rows.parquet", {"row", "long"})
    next(reader.read(0, 1999))
    assert rows_of(reader.read(10, 20))[0] == 0


def test_a_run_in_another_row_group_begins_with_that_group(tmp_path):
    write(tmp_path / "rows.parquet", groups=[500, 500, 500])
    reader = Reader(tmp_path / "rows.parquet", {"row", "long"})
    rows_of(reader.read(0, 10))
    assert rows_of(reader.read(1100, 1110))[0] == 1000
