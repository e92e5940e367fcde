"""DataFrames come back as they went in: dtypes, index, names. Through a snapshot with any values, and through a job."""

import datetime as dt
import json
import sys
import uuid
from decimal import Decimal

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from claude_pipeline.errors import InputError, PipelineError
from claude_pipeline.frames import arrow_to_frame
from claude_pipeline.restoring import restore
from claude_pipeline.sources import snapshot

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
SMALL = st.integers(-100, 100)
MOMENTS = st.datetimes(dt.datetime(1970, 1, 1), dt.datetime(2200, 1, 1)).map(lambda at: at.replace(microsecond=0))  # noqa: DTZ001
BERLIN = "Europe/Berlin"


def with_gaps(values):
    return st.one_of(st.none(), values)


def arrow(type_):
    return lambda cells: pd.Series(pd.array(cells, dtype=pd.ArrowDtype(type_)))


def as_type(dtype):
    return lambda cells: pd.Series(pd.array(cells, dtype=dtype))


def objects(cells):
    return pd.Series(cells, dtype=object)


def category(categories, *, ordered=False):
    return lambda cells: pd.Series(pd.Categorical(cells, categories=pd.Index(categories), ordered=ordered))


def times(unit, tz=None):
    def make(cells):
        moments = pd.DatetimeIndex(pd.array(cells, dtype="datetime64[s]")).as_unit(unit)
        return pd.Series(moments.tz_localize("UTC").tz_convert(tz) if tz else moments)

    return make


AGES = pd.cut([1, 5, 9], [0, 4, 8, 10]).categories
QUARTERS = pd.period_range("2026Q1", periods=3, freq="Q")
# What cells there may be, and what makes a column of them.
COLUMNS = {
    "int8": (SMALL, as_type("int8")),
    "uint64": (st.integers(0, 2**64 - 1), as_type("uint64")),
    "float32": (st.floats(width=32), as_type("float32")),
    "bool": (st.booleans(), as_type("bool")),
    "Int16": (with_gaps(SMALL), as_type("Int16")),
    "Float64": (with_gaps(SMALL.map(float)), as_type("Float64")),
    "boolean": (with_gaps(st.booleans()), as_type("boolean")),
    "str": (with_gaps(TEXT), as_type("str")),
    "string": (with_gaps(TEXT), as_type("string[python]")),
    "text objects": (with_gaps(TEXT), objects),
    "whole numbers as objects": (with_gaps(st.integers(-(2**62), 2**62)), objects),
    "days": (with_gaps(st.dates()), objects),
    "times of day": (with_gaps(st.times()), objects),
    "decimals": (with_gaps(st.decimals(-1000, 1000, places=2)), objects),
    "bytes": (with_gaps(st.binary(max_size=4)), objects),
    "uuids": (st.uuids(), objects),
    "lists": (with_gaps(st.lists(SMALL, max_size=3)), objects),
    "structs": (with_gaps(st.fixed_dictionaries({"a": with_gaps(SMALL), "b": TEXT})), objects),
    "lists of structs": (with_gaps(st.lists(st.fixed_dictionaries({"p": with_gaps(SMALL)}), max_size=2)), objects),
    "seconds": (with_gaps(MOMENTS), times("s")),
    "nanoseconds": (with_gaps(MOMENTS), times("ns")),
    "zoned": (with_gaps(MOMENTS), times("us", BERLIN)),
    "zoned seconds": (with_gaps(MOMENTS), times("s", BERLIN)),
    "spans": (with_gaps(st.integers(0, 9).map(lambda n: pd.Timedelta(n, "h"))), as_type("timedelta64[s]")),
    "months": (with_gaps(MOMENTS.map(lambda at: pd.Period(at, "M"))), as_type("period[M]")),
    "words": (with_gaps(st.sampled_from("abc")), category(list("cbaz"))),
    "ranks": (with_gaps(st.sampled_from("abc")), category(list("cbaz"), ordered=True)),
    "codes": (with_gaps(st.sampled_from([1, 2, 2**60])), category([2**60, 2, 1, 7], ordered=True)),
    "ages": (with_gaps(st.sampled_from(list(AGES))), category(AGES, ordered=True)),
    "quarters": (with_gaps(st.sampled_from(list(QUARTERS))), category(QUARTERS)),
    "sparse": (st.sampled_from([0, 0, 1]), as_type("Sparse[int64]")),
    "arrow text": (with_gaps(TEXT), arrow(pa.string())),
    "arrow decimals": (with_gaps(st.decimals(-9, 9, places=2)), arrow(pa.decimal128(5, 2))),
    "arrow lists": (with_gaps(st.lists(SMALL, max_size=3)), arrow(pa.list_(pa.int8()))),
    "arrow structs": (with_gaps(st.fixed_dictionaries({"a": SMALL})), arrow(pa.struct([("a", pa.int8())]))),
    "arrow words": (with_gaps(st.sampled_from("ab")), arrow(pa.dictionary(pa.int8(), pa.string()))),
}
LEVELS = ["int8", "Int16", "str", "string", "zoned", "seconds", "words", "codes", "ages", "months"]
NAMES = st.one_of(st.none(), TEXT, SMALL)


@st.composite
def columns(draw, kinds, *, rows):
    kind = draw(st.sampled_from(kinds))
    cells, make = COLUMNS[kind]
    return make(draw(st.lists(cells, min_size=rows, max_size=rows)))


@st.composite
def frames(draw):
    rows = draw(st.integers(1, 5))
    kinds = draw(st.lists(st.sampled_from(list(COLUMNS)), min_size=1, max_size=6, unique=True))
    frame = pd.DataFrame({kind: draw(columns([kind], rows=rows)) for kind in kinds})
    levels = draw(st.lists(columns(LEVELS, rows=rows), max_size=3))
    if len(levels) == 1:
        frame.index = pd.Index(levels[0])
    elif levels:
        frame.index = pd.MultiIndex.from_arrays(levels)
    frame.index.names = draw(st.lists(NAMES, min_size=max(1, len(levels)), max_size=max(1, len(levels))))
    frame.columns.name = draw(with_gaps(TEXT))
    return frame


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


def back(source, folder, *, rows=2):
    """Bring a table through a snapshot, in batches, with a column more, as a job's answers come."""
    with pq.ParquetFile(snapshot(source, folder / "input.parquet").path) as file:
        schema = file.schema_arrow.append(pa.field("response", pa.string()))
        batches = [[*batch.columns, pa.nulls(len(batch), pa.string())] for batch in file.iter_batches(rows)]
    return restore(pa.Table.from_batches([pa.record_batch(batch, schema=schema) for batch in batches], schema))


def frame_back(frame, folder, **options):
    return arrow_to_frame(back(frame, folder, **options)).drop(columns="response")


@settings(max_examples=60)
@given(frames())
def test_a_frame_comes_back_with_its_dtypes_and_its_index(folder, frame):
    got = frame_back(frame, folder)
    pd.testing.assert_frame_equal(got, frame)
    assert got.index.names == frame.index.names
    assert list(map(type, got.index.names)) == list(map(type, frame.index.names))


def test_a_type_that_pandas_can_hold_in_arrow_alone_comes_back_as_that(folder):
    small = pd.ArrowDtype(pa.list_(pa.decimal32(5, 2)))
    frame = pd.DataFrame({"n": [1, 2], "a": pd.Series([[Decimal("1.25")], None], dtype=small)})
    got = frame_back(frame, folder)
    assert got.dtypes.tolist() == frame.dtypes.tolist()
    assert pa.array(got["a"]).to_pylist() == [[Decimal("1.25")], None]


def test_a_level_of_an_index_may_be_called_by_the_number_of_another(folder):
    index = pd.MultiIndex.from_arrays([pd.Index([1, 2], dtype="int8"), pd.Index(["a", "b"])], names=[None, 0])
    frame = pd.DataFrame({"text": ["x", "y"]}, index=index)
    pd.testing.assert_frame_equal(frame_back(frame, folder), frame)


@settings(max_examples=20)
@given(st.data())
def test_what_python_put_into_cells_comes_back_of_the_same_type(folder, data):
    kind = data.draw(st.sampled_from(["whole numbers as objects", "lists", "structs", "lists of structs", "days"]))
    frame = pd.DataFrame({"x": data.draw(columns([kind], rows=4))})
    for got, cell in zip(frame_back(frame, folder)["x"], frame["x"], strict=True):
        assert (got, type(got)) == (cell, type(cell))


def test_a_real_job_gives_back_every_dtype_a_multiindex_and_what_was_noted(ask):
    frame = pd.DataFrame(
        {
            "text": ["a", "b", "a"],
            "grade": pd.Categorical(["low", None, "high"], ["low", "mid", "high"], ordered=True),
            "code": pd.Categorical([3, 1, 3], [3, 2, 1]),
            "age": pd.cut([1, 5, 9], [0, 4, 8, 10]),
            "when": pd.to_datetime(["2026-03-29 01:30", None, "2026-10-25 02:30"]).as_unit("s").tz_localize("UTC"),
            "count": pd.array([1, None, 3], "Int64"),
            "is": pd.array([True, None, False], "boolean"),
            "note": pd.array(["x", None, "y"], "string[python]"),
            "price": [Decimal("1.10"), None, Decimal("20.00")],
            "tags": [["a"], [], None],
            "seen": [{"n": 1, "by": "x"}, None, {"n": None, "by": "y"}],
            "month": pd.period_range("2026-01", periods=3, freq="M"),
            "vector": pd.array([[1], None, [2, 3]], pd.ArrowDtype(pa.list_(pa.int16()))),
            "id": [uuid.UUID(int=n) for n in range(3)],
        },
        index=pd.MultiIndex.from_arrays(
            [pd.Categorical(["p", "q", "p"]), pd.array([1, None, 1], "Int64")], names=["shop", 7]
        ),
    )
    frame.attrs = {"source": "till"}
    frame.columns.name = "fields"
    job = ask(frame, template="{text} {age} {code} {grade}", fill_null="?").wait(poll_interval=0)
    got = job.to_pandas()
    pd.testing.assert_frame_equal(got[list(frame.columns)], frame)
    assert got.attrs == frame.attrs
    assert type(got["tags"].iloc[0]) is list
    assert job.failed().index.names == ["shop", 7]
    assert job.failed().index.dtypes.to_list() == frame.index.dtypes.to_list()


def test_what_is_asked_of_an_interval_is_its_text(ask, sandbox):
    ask(pd.DataFrame({"age": pd.cut([1, 9], [0, 4, 10])}), template="Who is {age}?").wait(poll_interval=0)
    asked = [json.loads(request.params)["messages"][0]["content"] for request in sandbox.requests()]
    assert sorted(asked) == ["Who is (0, 4]?", "Who is (4, 10]?"]


def test_the_frequency_of_an_index_comes_back(folder):
    frame = pd.DataFrame({"a": range(3)}, index=pd.date_range("2026-01-30", periods=3, freq="MS", tz=BERLIN))
    pd.testing.assert_frame_equal(frame_back(frame, folder), frame)
    holidays = pd.offsets.CustomBusinessDay(holidays=["2026-01-02"])
    frame.index = pd.date_range("2026-01-01", periods=3, freq=holidays)
    pd.testing.assert_frame_equal(frame_back(frame, folder), frame, check_freq=False)


def test_labels_that_occur_twice_stay_with_their_rows(folder):
    frame = pd.DataFrame({"code": pd.Categorical([3, 1, 3])}, index=["a", "a", "b"])
    pd.testing.assert_frame_equal(frame_back(frame, folder), frame)


def test_categories_come_back_in_their_order_over_many_row_groups_and_beyond_a_dictionary_page(folder):
    names = [f"{'x' * 40}{number}" for number in range(40_000, 0, -1)]
    frame = pd.DataFrame({"name": pd.Categorical(names[::-1] * 3, names, ordered=True)})
    pd.testing.assert_frame_equal(frame_back(frame, folder, rows=30_000), frame)


def test_a_file_of_answers_can_be_read_by_pandas_whatever_came_in(ask, tmp_path):
    vectors = pd.array([[1], None], pd.ArrowDtype(pa.list_(pa.int16())))
    frame = pd.DataFrame({"text": ["a", "b"], "vector": vectors}).set_axis(
        pd.CategoricalIndex(["text", "vector"]), axis=1
    )
    path = ask(frame).wait(poll_interval=0).write(tmp_path / "answers.parquet")
    assert pd.read_parquet(path)["vector"].iloc[0].tolist() == [1]


def test_whoever_asks_for_types_of_their_own_gets_those(ask):
    job = ask(pd.DataFrame({"text": ["a"], "n": pd.Categorical([1])})).wait(poll_interval=0)
    assert job.to_pandas(types_mapper=pd.ArrowDtype).dtypes["text"] == pd.ArrowDtype(pa.large_string())
    assert job.to_pandas(ignore_metadata=True).index.tolist() == [0]
    assert job.to_pandas(self_destruct=True, split_blocks=True).dtypes["n"] == "category"


@pytest.mark.parametrize(
    ("frame", "named"),
    [
        (pd.DataFrame({"z": [1j]}), "Column 'z' of the DataFrame cannot become an Arrow column: complex"),
        (pd.DataFrame({"z": [1]}, index=pd.Index([1j], name="at")), "The index 'at' of the DataFrame cannot become"),
        (pd.DataFrame({"z": [1, 2]}, index=[1, "a"]), "The index of the DataFrame cannot become .* str 'a' in row 2"),
    ],
)
def test_what_cannot_be_kept_is_named(folder, frame, named):
    with pytest.raises(InputError, match=named):
        snapshot(frame, folder / "refused.parquet")


# Arrow and Polars


def test_an_arrow_table_comes_back_with_its_types_and_metadata(ask):
    table = pa.table(
        {
            "text": pa.array(["a", "b"], pa.string_view()),
            "large": pa.array(["a", None], pa.large_string()),
            "word": pa.array(["x", "y"]).dictionary_encode().cast(pa.dictionary(pa.int8(), pa.large_string())),
            "code": pa.array([7, 8]).dictionary_encode(),
            "second": pa.array([1, 2], pa.timestamp("s", "UTC")),
            "clock": pa.array([1, 2], pa.time32("s")),
            "day": pa.array([dt.date(2026, 1, 1), None], pa.date64()),
            "views": pa.array([["a"], None], pa.list_(pa.string_view())),
            "id": pa.array([uuid.UUID(int=1).bytes, None], pa.uuid()),
            "json": pa.array(["{}", None], pa.json_()),
        }
    )
    fields = [field.with_metadata({"unit": field.name}) for field in table.schema]
    table = table.cast(pa.schema(fields, metadata={"made": "by hand"}))
    got = ask(table).wait(poll_interval=0).to_arrow().select(table.column_names)
    assert got.schema.equals(table.schema, check_metadata=True)
    assert got.to_pylist() == table.to_pylist()


def test_a_type_that_cannot_be_restored_comes_as_what_parquet_keeps(folder):
    codes = pa.array([7, 8]).dictionary_encode()
    table = pa.table({"codes": pa.ListArray.from_arrays([0, 1, 2], codes)})
    assert back(table, folder)["codes"].to_pylist() == [[7], [8]]


def test_a_file_of_answers_whose_columns_were_edited_comes_back_as_edited(ask, tmp_path):
    table = pa.table({"text": ["one", "two"], "day": pa.array([0, 1], pa.timestamp("s"))})
    ask(table).wait(poll_interval=0).write(tmp_path / "answers.parquet")
    frame = pd.DataFrame({"text": ["three", "four"], "label": pd.Categorical(["a", "b"])})
    ask(frame).wait(poll_interval=0).write(tmp_path / "more.parquet")
    for name, column in (("answers", "day"), ("more", "label")):
        answers = pq.read_table(tmp_path / f"{name}.parquet").select(["text", column])
        edited = answers.set_column(1, column, pa.array(["a", "yesterday"]))
        job = ask(edited).wait(poll_interval=0)
        assert job.to_arrow()[column].to_pylist() == ["a", "yesterday"]
        assert job.to_pandas()[column].tolist() == ["a", "yesterday"]


def test_a_polars_frame_comes_back_with_its_types(ask):
    frame = pl.DataFrame(
        {
            "text": ["a", "b"],
            "size": pl.Series(["S", "L"], dtype=pl.Enum(["S", "M", "L"])),
            "word": pl.Series(["x", None], dtype=pl.Categorical),
            "at": pl.Series([dt.datetime(2026, 1, 1, tzinfo=dt.UTC)] * 2, dtype=pl.Datetime("ms", BERLIN)),
            "clock": [dt.time(1), None],
            "span": [dt.timedelta(1), None],
            "price": pl.Series([Decimal("1.10"), None], dtype=pl.Decimal(10, 2)),
            "pair": pl.Series([[1, 2], None], dtype=pl.Array(pl.Int8, 2)),
            "tags": [["a"], []],
            "seen": [{"n": 1}, {"n": None}],
            "raw": [b"\x00", None],
        }
    )
    got = ask(frame).wait(poll_interval=0).to_polars()
    assert got.columns[-1] == "attempts"
    assert got.select(frame.columns).equals(frame)
    assert got.select(frame.columns).schema == frame.schema


def test_without_polars_the_error_names_what_to_install(ask, monkeypatch):
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(PipelineError, match=r"needs Polars.*pip install polars"):
        ask(["a"]).to_polars()


def test_a_lazy_frame_says_how_to_become_a_table(folder):
    with pytest.raises(InputError, match=r"LazyFrame.*\.collect\(\)"):
        snapshot(pl.LazyFrame({"a": [1]}), folder / "refused.parquet")
