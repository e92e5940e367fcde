"""The reading half: any input becomes a snapshot, or one clear error."""

import csv
import errno
import os
import subprocess
import sys
from datetime import timedelta
from hashlib import blake2b
from io import StringIO
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from claude_pipeline.errors import InputError, StoreError
from claude_pipeline.files import cannot_write
from claude_pipeline.sources import snapshot

# Arrow's C interface ends a name at NUL, and Polars ends the process.
LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\x00")
NAMES = st.text(LETTERS, min_size=1, max_size=8).filter(lambda name: not name.startswith("\ufeff"))


@st.composite
def text_tables(draw):
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    rows = draw(st.integers(1, 5))
    return {name: draw(st.lists(st.text(), min_size=rows, max_size=rows)) for name in names}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "store"
    path.mkdir()
    return path


def cells(source, folder, **options):
    taken = snapshot(source, folder / "input.parquet", **options)
    return pq.read_table(taken.path).to_pydict()


def refusal(source, store, **options):
    """Return the message, once it is sure that nothing was left behind."""
    with pytest.raises(InputError) as caught:
        snapshot(source, store / "input.parquet", **options)
    assert list(store.iterdir()) == []
    return str(caught.value)


def as_csv(columns, **options):
    text = StringIO(newline="")
    writer = csv.writer(text, **options)
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def parquet(path, columns, **options):
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path, **options)
    return path


# Every door


@settings(max_examples=40)
@given(text_tables())
def test_the_same_text_comes_through_every_door(folder, columns):
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    doors = [
        parquet(folder / "door.parquet", table),
        written(folder / "door.csv", as_csv(columns, quoting=csv.QUOTE_ALL)),
        pd.DataFrame(columns),
        pl.DataFrame(columns),
        table,
        table.to_reader(),
        table.to_batches()[0],
    ]
    for source in doors:
        assert cells(source, folder) == columns


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_a_duckdb_relation_keeps_its_text(folder, values):
    relation = duckdb.from_arrow(pa.table({"text": pa.array(values, pa.string())}))
    assert cells(relation, folder) == {"text": values}


@given(text_tables(), st.sampled_from(["\n", "\r\n"]), st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]))
def test_csv_cells_stay_as_python_wrote_them(folder, columns, lineterminator, quoting):
    text = as_csv(columns, lineterminator=lineterminator, quoting=quoting)
    assert cells(written(folder / "written.csv", text), folder) == columns


@given(st.lists(st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"])), min_size=1))
def test_csv_cells_without_needless_quotes_stay_as_they_were(folder, values):
    columns = {"text": values, "again": values}
    text = as_csv(columns, lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
    assert cells(written(folder / "written.csv", text), folder) == columns


def test_csv_is_text_without_a_guess(tmp_path, store):
    path = written(tmp_path / "a.csv", "id,a,b,c\n00123,NA,, x \n")
    assert cells(path, store) == {"id": ["00123"], "a": ["NA"], "b": [""], "c": [" x "]}


def test_csv_from_windows_loses_its_mark_and_keeps_breaks_within_quotes(tmp_path, store):
    path = written(tmp_path / "a.csv", b'\xef\xbb\xbf\r\n"a","b"\r\n\r\n"x\r\ny","say ""hi"""\r\n\r\n')
    assert cells(path, store) == {"a": ["x\r\ny"], "b": ['say "hi"']}


def test_csv_records_across_blocks_stay_whole(tmp_path, store):
    rows = [f'{"é" * (number % 97)}\r\n"{number}"' for number in range(40_000)]
    path = written(tmp_path / "a.csv", as_csv({"text": rows, "id": rows}))
    assert cells(path, store) == {"text": rows, "id": rows}


def test_csv_cells_of_many_megabytes_fit_between_small_ones(tmp_path, store):
    rows = [*map(str, range(300_000)), "x" * 5_000_000, "end"]
    assert cells(written(tmp_path / "a.csv", as_csv({"text": rows})), store) == {"text": rows}


def test_a_csv_cell_may_hold_the_character_that_marks_the_end(tmp_path, store):
    assert cells(written(tmp_path / "a.csv", "a\n\x04\nx\n\x04"), store) == {"a": ["\x04", "x", "\x04"]}


def test_one_parquet_file_is_copied_byte_for_byte(tmp_path, store):
    path = parquet(tmp_path / "a.parquet", {"a": [1, 2]}, compression="gzip")
    taken = snapshot(path, store / "input.parquet")
    assert taken.path.read_bytes() == path.read_bytes()
    assert (taken.rows, taken.schema, taken.label) == (2, pa.schema([("a", pa.int64())]), "a.parquet")
    assert list(store.iterdir()) == [taken.path]


def test_the_digest_is_that_of_the_file(tmp_path, store):
    for source in (parquet(tmp_path / "a.parquet", {"a": [1]}), pa.table({"a": [1]})):
        taken = snapshot(source, store / "input.parquet")
        assert taken.digest == blake2b(taken.path.read_bytes(), digest_size=16).hexdigest()


def test_the_same_table_has_the_same_digest(store):
    digests = {snapshot(pa.table({"a": ["x"]}), store / name).digest for name in ("a.parquet", "b.parquet")}
    assert len(digests) == 1


def test_a_glob_reads_its_files_in_the_order_of_their_names(tmp_path, store):
    for number in (2, 0, 1):
        parquet(tmp_path / f"part-{number}.parquet", {"n": [number]})
    taken = snapshot(f"{tmp_path}/part-*.parquet", store / "input.parquet")
    assert pq.read_table(taken.path).to_pydict() == {"n": [0, 1, 2]}
    assert taken.label == "3 files (part-0.parquet, …)"


def test_a_list_keeps_its_order_and_mends_that_of_the_columns(tmp_path, store):
    second = written(tmp_path / "a.csv", "a,b\n3,4\n")
    first = written(tmp_path / "b.csv", "b,a\n2,1\n")
    assert cells([first, str(second)], store) == {"b": ["2", "4"], "a": ["1", "3"]}


def test_a_file_that_is_named_like_a_glob_wins(tmp_path, store):
    parquet(tmp_path / "[ab].parquet", {"a": ["the file"]})
    parquet(tmp_path / "a.parquet", {"a": ["the match"]})
    assert cells(str(tmp_path / "[ab].parquet"), store) == {"a": ["the file"]}


def test_a_tilde_is_the_home_folder(tmp_path, store, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    parquet(tmp_path / "a.pq", {"a": [1]})
    assert cells("~/a.pq", store) == {"a": [1]}


def test_files_may_differ_in_whether_nulls_are_allowed(tmp_path, store):
    strict = pa.schema([pa.field("a", pa.string(), nullable=False)])
    first = parquet(tmp_path / "a.parquet", pa.table({"a": ["x"]}, schema=strict))
    second = parquet(tmp_path / "b.parquet", pa.table({"a": pa.array([None], pa.string())}))
    assert cells([first, second], store) == {"a": ["x", None]}


@pytest.mark.parametrize("kind", ["csv", "parquet", "frame"])
def test_a_limit_takes_the_first_rows(tmp_path, store, kind):
    frame = pd.DataFrame({"n": [str(number) for number in range(10_000)]})
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    source = frame if kind == "frame" else tmp_path / f"a.{kind}"
    assert cells(source, store, limit=5_000)["n"] == [str(number) for number in range(5_000)]
    assert cells(source, store, limit=20_000)["n"] == frame["n"].tolist()


def test_the_index_of_a_dataframe_comes_back(store):
    frame = pd.DataFrame({"a": ["x", "y"]}, index=pd.Index([7, 8], name="key"))
    taken = snapshot(frame, store / "input.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(taken.path), frame)


def test_views_and_categories_of_polars_become_what_every_reader_knows(store):
    frame = pl.DataFrame(
        {
            "text": ["x", None],
            "list": [["y"], []],
            "struct": [{"p": "q"}, {"p": None}],
            "category": pl.Series(["a", "b"], dtype=pl.Categorical),
            "bytes": [b"\x00", b""],
            "pair": pl.Series([["u", "v"], ["w", None]], dtype=pl.Array(pl.String, 2)),
        }
    )
    taken = snapshot(frame, store / "input.parquet")
    assert "view" not in str(taken.schema)
    assert pq.read_table(taken.path).to_pylist() == frame.to_dicts()


def test_neither_pandas_nor_datasets_are_imported_for_files(tmp_path):
    parquet(tmp_path / "a.parquet", {"a": [1]})
    written(tmp_path / "a.csv", "a\n1\n")
    program = (
        "import sys; from pathlib import Path; from claude_pipeline.sources import snapshot\n"
        "for source in ('a.csv', ['a.parquet', 'a.parquet']): snapshot(source, Path('input.parquet'))\n"
        "print(sorted({'pandas', 'pyarrow.dataset'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# Files that will not do


def test_a_missing_file_is_named(tmp_path, store):
    assert f"No file matches '{tmp_path}/absent.csv'" in refusal(tmp_path / "absent.csv", store)


def test_a_glob_without_a_match_is_named(tmp_path, store):
    (tmp_path / "folder.csv").mkdir()
    assert f"No file matches '{tmp_path}/*.csv'" in refusal(f"{tmp_path}/*.csv", store)


def test_a_folder_asks_for_a_glob(tmp_path, store):
    assert f"{tmp_path} is a folder. Name its files with a glob: {tmp_path}/*.parquet" in refusal(tmp_path, store)


def test_an_unknown_suffix_names_those_that_are_known(tmp_path, store):
    message = refusal(written(tmp_path / "a.xlsx", ""), store)
    assert f"{tmp_path}/a.xlsx" in message
    assert ".parquet, .pq, .csv" in message


def test_parquet_and_csv_do_not_mix(tmp_path, store):
    message = refusal([parquet(tmp_path / "a.parquet", {"a": ["1"]}), written(tmp_path / "b.csv", "a\n1\n")], store)
    assert f"{tmp_path}/a.parquet and {tmp_path}/b.csv are Parquet and CSV" in message


def test_an_empty_list_is_refused(store):
    assert refusal([], store) == "The list of files is empty. Pass at least one path."


@pytest.mark.parametrize("source", [7, [{"a": 1}], {"a": [1]}, None])
def test_what_is_no_table_is_named_by_its_type(store, source):
    assert f"Cannot read a {type(source).__name__}. Pass a path" in refusal(source, store)


def test_an_arrow_column_is_no_table(store):
    assert "Cannot read the Arrow table" in refusal(pa.chunked_array([[1]]), store)


@pytest.mark.parametrize(
    ("columns", "difference"),
    [
        ({"a": [1]}, "it has no column 'b'"),
        ({"a": [1], "b": ["x"], "c": [1]}, "it has one more column, 'c'"),
        ({"b": ["x"], "a": [1.5]}, "its column 'a' is double, not int64"),
    ],
)
def test_files_that_differ_are_both_named_with_the_first_difference(tmp_path, store, columns, difference):
    first = parquet(tmp_path / "a.parquet", {"a": [1], "b": ["x"]})
    other = parquet(tmp_path / "b.parquet", columns)
    assert f"{other} differs from {first}: {difference}." in refusal([first, other], store)


def test_csv_files_that_differ_are_both_named(tmp_path, store):
    first, other = written(tmp_path / "a.csv", "a\n1\n"), written(tmp_path / "b.csv", "b\n1\n")
    assert f"{other} differs from {first}: it has no column 'a'" in refusal([first, other], store)


def test_what_is_not_parquet_is_named(tmp_path, store):
    path = written(tmp_path / "a.parquet", "id,text\n" * 9)
    assert f"Cannot read {path}: " in refusal(path, store)


def test_an_empty_parquet_file_is_named(tmp_path, store):
    assert f"Cannot read {tmp_path}/a.parquet: " in refusal(written(tmp_path / "a.parquet", ""), store)


def test_a_damaged_parquet_file_among_several_is_named(tmp_path, store):
    sound = parquet(tmp_path / "a.parquet", {"a": ["x"]})
    damaged = parquet(tmp_path / "b.parquet", {"a": [str(n) for n in range(9_000)]}, compression="zstd")
    content = bytearray(damaged.read_bytes())
    content[40:4_000] = bytes(3_960)
    damaged.write_bytes(content)
    assert f"Cannot read {damaged}: " in refusal([sound, damaged], store)


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_file_that_may_not_be_read_is_named(tmp_path, store, name):
    path = written(tmp_path / name, "a\n1\n")
    user = os.geteuid()
    path.chmod(0)
    tmp_path.chmod(0o700)
    if user == 0:  # root may read everything
        os.seteuid(65534)
    try:
        with pytest.raises(InputError, match=f"Cannot read {path}: .*[Pp]ermission denied"):
            snapshot(path, store / "input.parquet")
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(store, limit):
    assert f"limit is {limit}" in refusal(pa.table({"a": [1]}), store, limit=limit)


# Tables that will not do


def test_an_input_without_rows_is_named(tmp_path, store):
    assert refusal(written(tmp_path / "a.csv", "a,b\n"), store) == "a.csv has no rows."
    assert refusal(parquet(tmp_path / "a.parquet", {"a": []}), store) == "a.parquet has no rows."
    assert refusal(pd.DataFrame({"a": []}), store) == "the DataFrame has no rows."
    assert refusal(pl.DataFrame({"a": []}), store) == "the DataFrame has no rows."
    assert refusal(pa.table({"a": []}), store) == "the Arrow table has no rows."


def test_an_input_without_columns_is_named(tmp_path, store):
    assert refusal(parquet(tmp_path / "a.parquet", {}), store) == f"{tmp_path}/a.parquet has no columns."
    assert refusal(pd.DataFrame(index=[1]), store) == "the DataFrame has no columns."
    assert refusal(pa.table({}), store) == "the Arrow table has no columns."


def test_a_column_name_that_occurs_twice_is_named(tmp_path, store):
    twice = pa.table([[1], [2]], names=["same", "same"])
    sources = [
        written(tmp_path / "a.csv", "same,same\n1,2\n"),
        parquet(tmp_path / "a.parquet", twice),
        pd.DataFrame([[1, 2]], columns=["same", "same"]),
        twice,
    ]
    for source in sources:
        assert "has two columns named 'same'" in refusal(source, store)


@pytest.mark.parametrize("name", [0, None, ("a", "b"), 1.5])
def test_a_column_name_that_is_not_text_is_named(store, name):
    message = refusal(pd.DataFrame({"x": ["y"]}).set_axis(pd.Index([name], dtype=object), axis=1), store)
    assert f"column {name!r} is named by {type(name).__name__}, not by text" in message


@pytest.mark.parametrize(
    ("values", "culprit"),
    [
        (["x", "y", 1], "int 1 in row 3"),
        ([1, "x" * 99], f"str '{'x' * 39}… in row 2"),
        (["fine", "\ud800"], r"str '\ud800' in row 2"),
        ([None, 1, 2**70], f"int {2**70} in row 3"),
    ],
)
def test_a_value_that_arrow_cannot_hold_is_named(store, values, culprit):
    frame = pd.DataFrame({"good": range(len(values)), "bad": pd.Series(values, dtype=object)})
    message = refusal(frame, store)
    assert "Column 'bad' of the DataFrame" in message
    assert culprit in message


def test_an_index_that_arrow_cannot_hold_is_an_error_of_the_dataframe(store):
    frame = pd.DataFrame({"a": [1, 2]}, index=pd.Index(["x", 1], dtype=object, name="key"))
    assert "The index 'key' of the DataFrame cannot become an Arrow column: int 1 in row 2" in refusal(frame, store)


def test_a_column_that_parquet_cannot_hold_is_named(store):
    relation = duckdb.sql("select 'x' as fine, interval 1 day as span")
    assert "Column 'span' of the Arrow table is month_day_nano_interval" in refusal(relation, store)


def test_a_refused_query_leaves_its_connection_free(store):
    with duckdb.connect() as connection:
        refusal(connection.sql("select interval 1 day as span from range(9999999)"), store)
        assert cells(connection.sql("select 'x' as a from range(9999999)"), store, limit=1) == {"a": ["x"]}
        assert cells(connection.sql("select 'y' as a"), store) == {"a": ["y"]}


def test_durations_of_pandas_are_kept(store):
    assert cells(pd.DataFrame({"d": [timedelta(1)]}), store) == {"d": [timedelta(1)]}


def test_a_query_that_fails_while_it_is_read_is_an_input_error(store):
    relation = duckdb.sql("select if(range < 200000, 1, error('boom')) as x from range(300000)")
    message = refusal(relation, store)
    assert "Cannot read the Arrow table" in message
    assert "boom" in message


# CSV that will not do


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("a,b\n1,2\n3\n", "The record at line 3 of {path} has 1 cell, the header has 2."),
        ("a,b\n1,2,3\n", "The record at line 2 of {path} has 3 cells, the header has 2."),
        ('a,b\n\n"x\ny",2\r\n"z\r\n",3\n4\n', "The record at line 7 of {path} has 1 cell"),
        ('a,b\n1,2\n3,"4\n5,6\n', "The record at line 3 of {path} opens a quote and never closes it."),
        ('a,b\n1,2\n"3,4\n5,6\n', "The record at line 3 of {path} opens a quote and never closes it."),
        ('a\n"', "The record at line 2 of {path} opens a quote and never closes it."),
        ('"a,b\n1,2\n', "The header of {path} cannot be read (unexpected end of data)."),
        (b'a,b\n"1\n",2\n3,caf\xe9\n', "Line 4 of {path} is not UTF-8: byte 0xe9. Save the file as UTF-8."),
        (b"caf\xe9\n1\n", "Line 1 of {path} is not UTF-8: byte 0xe9."),
        ("a\n1\n".encode("utf-16"), "Line 1 of {path} is not UTF-8: byte 0xff."),
        ("a,,c\n1,2,3\n", "Column 2 of {path} has no name."),
        ("", "{path} is empty. Its first line must name the columns."),
        ("\ufeff\r\n\r\n", "{path} is empty."),
    ],
)
def test_a_fault_in_a_csv_file_is_named_by_its_line(tmp_path, store, content, fault):
    path = written(tmp_path / "a.csv", content)
    assert refusal(path, store).startswith(fault.format(path=path))


def test_a_fault_far_down_a_csv_file_is_named_by_its_line(tmp_path, store):
    path = written(tmp_path / "a.csv", "a,b\n" + "1,2\n" * 600_000 + "3\n")
    assert f"The record at line 600002 of {path} has 1 cell" in refusal(path, store)


def test_a_search_for_faults_leaves_the_limit_of_the_csv_module(tmp_path, store):
    before = csv.field_size_limit()
    refusal(written(tmp_path / "a.csv", "a\n1,2\n"), store)
    assert csv.field_size_limit() == before


# Places that will not do


def test_a_file_that_may_not_grow_is_a_store_error_and_leaves_nothing(tmp_path, store):
    parquet(tmp_path / "a.parquet", {"a": [os.urandom(1_000) for _ in range(1_000)]})
    program = (
        "import resource, sys; from pathlib import Path; from claude_pipeline.errors import StoreError\n"
        "from claude_pipeline.sources import snapshot\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "for limit in (None, 900):\n"
        "    try: snapshot('a.parquet', Path('store/input.parquet'), limit=limit)\n"
        "    except StoreError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.count("Cannot write to store: File too large.") == 2
    assert done.stderr == ""
    assert list(store.iterdir()) == []


def test_a_missing_store_is_a_store_error(tmp_path):
    with pytest.raises(StoreError, match=f"Cannot write to {tmp_path}/absent: No such file or directory"):
        snapshot(pa.table({"a": [1]}), tmp_path / "absent" / "input.parquet")


def test_a_full_disk_says_to_free_some_room():
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    message = "Cannot write to /store: No space left on device. Free some room and run the same command again."
    assert str(cannot_write(Path("/store"), error)) == message
