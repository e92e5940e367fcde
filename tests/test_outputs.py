"""Where the answers go: Parquet and CSV, whole or not at all."""

import csv
import json
import subprocess
import sys
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CELLS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def end(job):
    return job.wait(poll_interval=0)


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", ["answers.parquet", "answers.PARQUET"])
def test_parquet_holds_what_to_arrow_returns(ask, tmp_path, name):
    job = end(ask(pa.table({"id": [1, 2, 3], "text": ["a", None, "b"], "tags": [["x"], [], None]})))
    assert job.write(tmp_path / name) == tmp_path / name
    assert pq.read_table(tmp_path / name).equals(job.to_arrow())


def test_parquet_gives_a_dataframe_its_index_back(ask, tmp_path):
    frame = pd.DataFrame({"text": ["a", "b"]}, index=pd.Index(["i", "j"], name="key"))
    path = end(ask(frame)).write(tmp_path / "answers.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(path)[["text"]], frame)


def test_csv_holds_the_same_rows_and_columns(ask, tmp_path):
    job = end(ask(["a", None, "b"]))
    rows = read_csv(job.write(tmp_path / "answers.csv"))
    assert list(rows[0]) == job.to_arrow().column_names
    assert [row["response"] for row in rows] == ["a", "", "b"]
    assert [row["error_type"] for row in rows] == ["", "missing_prompt", ""]


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5))
def test_any_text_survives_csv_and_parquet(ask, tmp_path, rows):
    table = pa.table({"text": [text for text, _ in rows], "other": [other for _, other in rows]})
    job = end(ask(table))
    written = read_csv(job.write(tmp_path / "answers.csv"))
    assert [(row["text"], row["other"]) for row in written] == rows
    assert pq.read_table(job.write(tmp_path / "answers.parquet")).select(["text", "other"]).equals(table)


EVERY_TYPE = {
    "int": pa.array([1, None]),
    "float": pa.array([0.5, None]),
    "bool": pa.array([True, None]),
    "null": pa.nulls(2),
    "large": pa.array(["é", None], pa.large_string()),
    "view": pa.array(["é", None], pa.string_view()),
    "category": pa.array(["x", None]).dictionary_encode(),
    "numbers": pa.array([7, None]).dictionary_encode(),
    "date": pa.array([date(2026, 1, 2), None]),
    "time": pa.array([time(1, 2, 3), None], pa.time64("us")),
    "when": pa.array([datetime(2026, 1, 2, tzinfo=UTC), None], pa.timestamp("us", "UTC")),
    "zone": pa.array([datetime(2026, 1, 2, tzinfo=UTC), None], pa.timestamp("ns", "Europe/Zurich")),
    "duration": pa.array([timedelta(seconds=1), None]),
    "decimal": pa.array([Decimal("1.50"), None]),
    "bytes": pa.array([b"raw", None]),
    "not_text": pa.array([b"\xff\x00", None]),
    "fixed": pa.array([b"raw!", None], pa.binary(4)),
    "list": pa.array([["a", "é"], None]),
    "struct": pa.array([{"x": 1, "y": [None]}, None]),
    "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
    "deep": pa.array([[{"when": datetime(2026, 1, 2), "raw": b"\x00"}], None]),  # noqa: DTZ001  it has no zone
}


@pytest.mark.parametrize("kind", EVERY_TYPE)
def test_a_column_of_any_type_can_be_written_after_it_was_paid_for(ask, tmp_path, kind):
    job = end(ask(pa.table({"text": ["a", "b"], kind: EVERY_TYPE[kind]})))
    rows = read_csv(job.write(tmp_path / "answers.csv"))
    assert [row["response"] for row in rows] == ["a", "b"]
    assert (rows[0][kind] == "", rows[1][kind]) == (kind == "null", "")
    assert pq.read_table(job.write(tmp_path / "answers.parquet"))["response"].to_pylist() == ["a", "b"]


def test_nested_cells_become_json_in_csv(ask, tmp_path):
    nested = {"list": [["a", "é"], None], "struct": [{"x": 1, "y": None}, {"x": 2, "y": "z"}]}
    rows = read_csv(end(ask(pa.table({"text": ["a", "b"], **nested}))).write(tmp_path / "answers.csv"))
    assert [json.loads(row["list"] or "null") for row in rows] == nested["list"]
    assert [json.loads(row["struct"]) for row in rows] == nested["struct"]
    assert "é" in rows[0]["list"]


def test_bytes_become_base64_in_csv(ask, tmp_path):
    table = pa.table({"text": ["a"], "raw": [b"\xff\x00"], "deep": [{"raw": b"\xff\x00"}]})
    (row,) = read_csv(end(ask(table)).write(tmp_path / "answers.csv"))
    assert (row["raw"], json.loads(row["deep"])) == ("/wA=", {"raw": "/wA="})


def test_text_that_is_not_unicode_is_written_as_it_came(ask, tmp_path):
    broken = pa.array([b"fine", b"half \xed\xa0\xbd"]).view(pa.string())
    pq.write_table(pa.table({"text": broken}), tmp_path / "table.parquet")
    job = end(ask(str(tmp_path / "table.parquet")))
    assert b"half \xed\xa0\xbd" in job.write(tmp_path / "answers.csv").read_bytes()
    assert pq.read_table(job.write(tmp_path / "answers.parquet")).equals(job.to_arrow())


def test_a_file_that_exists_is_replaced(ask, tmp_path):
    path = tmp_path / "answers.csv"
    path.write_text("old")
    assert len(read_csv(end(ask(["a", "b"])).write(path))) == 2


def test_nothing_but_the_file_is_left(ask, store, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    end(ask(["a"])).write(folder / "answers.csv")
    assert [path.name for path in folder.iterdir()] == ["answers.csv"]
    assert list((store / "spool").iterdir()) == []


def test_before_the_end_all_rows_are_written(ask, tmp_path):
    rows = read_csv(ask(["a", "b"]).write(tmp_path / "answers.csv"))
    assert [(row["text"], row["result_type"]) for row in rows] == [("a", ""), ("b", "")]


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


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_disk_that_fills_up_leaves_the_old_file_as_it_was(ask, store, tmp_path, suffix):
    folder = tmp_path / "out"
    folder.mkdir()
    path = folder / f"answers.{suffix}"
    path.write_text("old")
    job = end(ask([f"row {number}" for number in range(3_000)]))
    words = [sys.executable, "-W", "error", "-c", WRITE, store, job.job_id, path]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.startswith("Cannot write to ")
    assert "Free some room" in done.stdout
    assert path.read_text() == "old"
    assert [path.name for path in folder.iterdir()] == [f"answers.{suffix}"]
    assert job.write(path) == path
