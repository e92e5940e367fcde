import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.contestants import OURS
from benchmarks.goals import goals
from benchmarks.measure import Cost
from benchmarks.records import Record
from benchmarks.report import markdown
from benchmarks.table import check, expected_answers, make
from benchmarks.works import measurement

ROWS = 40


@pytest.fixture
def source(tmp_path):
    path = str(tmp_path / "in.parquet")
    make(path, first=0, rows=ROWS, distinct=ROWS)
    return path


def answered(source):
    table = pq.read_table(source)
    return table.append_column("response", expected_answers(table["prompt"]))


def faults(source, out, tmp_path):
    pq.write_table(out, tmp_path / "out.parquet")
    return check(source, str(tmp_path / "out.parquet"), task="text", column="response")


def test_the_benchmark_runs_side_by_side_and_nobody_loses_a_row(tmp_path):
    out = tmp_path / "record.json"
    options = ["--work", "text", "--only", "ours,loop,floor", "--rows", "200", "--rounds", "1", "--out", str(out)]
    command = [sys.executable, "-m", "benchmarks", *options]
    ended = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(out.read_text())
    assert [each["contestant"] for each in told["measurements"]] == ["ours", "loop", "floor"]
    for each in told["measurements"]:
        assert (each["requests"], each["lost"], each["doubled"], each["wrong"]) == (200, 0, 0, 0)
        assert each["cpu_seconds"] > 0
    assert "met      rows lost, doubled or wrong" in ended.stdout
    assert "| text | 200 | floor |" in out.with_suffix(".md").read_text()
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_an_output_in_another_order_is_right(source, tmp_path):
    out = answered(source).take(list(reversed(range(ROWS))))
    assert faults(source, out, tmp_path) == {"lost": 0, "doubled": 0, "wrong": 0}


def test_lost_doubled_and_wrong_rows_are_counted(source, tmp_path):
    right = answered(source)
    assert faults(source, right.slice(0, ROWS - 3), tmp_path) == {"lost": 3, "doubled": 0, "wrong": 0}
    assert faults(source, pa.concat_tables([right, right.slice(5, 2)]), tmp_path)["doubled"] == 2
    shifted = right["response"].to_pylist()
    shifted[0], shifted[1], shifted[2] = shifted[1], shifted[0], None
    out = right.set_column(4, "response", pa.array(shifted, pa.string()))
    assert faults(source, out, tmp_path) == {"lost": 1, "doubled": 0, "wrong": 2}


def test_a_lost_row_is_a_goal_that_is_not_met():
    record = Record(measurements=[measurement("text", OURS, Cost(1.0, 1.0, 1.0, ""), rows=100, lost=1)])
    assert [goal.met for goal in goals(record.medians())] == [False]
    assert "| rows lost, doubled or wrong | 1.00 | 0.00 | **not met** |" in markdown(record)


def test_a_record_goes_on_where_it_was(tmp_path):
    record = Record(skipped={"batchata": "needs Python 3.12, which is not here"})
    record.measurements.append(measurement("text", OURS, Cost(1.0, 1.0, 1.0, ""), rows=100))
    record.write(tmp_path / "record.json")
    again = Record.read(tmp_path / "record.json")
    assert again == record
    assert again.count(("text", "ours", 100)) == 1
