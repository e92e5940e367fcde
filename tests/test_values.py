"""The text of every type of cell, the same through every door."""

import json
import uuid
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import partial

import duckdb
import msgspec
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from claude_pipeline.errors import InputError
from claude_pipeline.parquets import read_batches
from claude_pipeline.sources import snapshot
from claude_pipeline.values import check_unicode, encode_text, is_text, render_column, shorten, to_json

NAN, INF = float("nan"), float("inf")
INT8 = pa.int8()
ID = uuid.UUID("12345678-1234-5678-1234-567812345678")
MOMENT = datetime(2026, 1, 2, 3, 4, 5)  # noqa: DTZ001  it has no zone
SUMMER = datetime(2026, 7, 2, 3, 4, 5, 600_000, tzinfo=UTC)
TEXTS = st.text(max_size=8)


def printed(column):
    return render_column(column, "a").to_pylist()


def one(kind, value):
    return printed(pa.array([value, None], kind))


# One rule a type


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (pa.int8(), -1, "-1"),
        (pa.uint64(), 2**64 - 1, "18446744073709551615"),
        (pa.float16(), 0.1, "0.1"),
        (pa.float16(), 10_008, "10008"),
        (pa.float16(), NAN, "nan"),
        (pa.float16(), -INF, "-inf"),
        (pa.float32(), 0.1, "0.1"),
        (pa.float64(), 0.1, "0.1"),
        (pa.float64(), 3.0, "3"),
        (pa.float64(), -0.0, "-0"),
        (pa.float64(), -2.5e-7, "-2.5e-7"),
        (pa.float64(), 1e20, "1e+20"),
        (pa.float64(), NAN, "nan"),
        (pa.bool_(), True, "true"),
        (pa.decimal128(9, 2), Decimal("1.50"), "1.50"),
        (pa.decimal256(60, 2), Decimal(10) ** 50, f"{10**50}.00"),
        (pa.date32(), date(2026, 1, 2), "2026-01-02"),
        (pa.date64(), date(2026, 1, 2), "2026-01-02"),
        (pa.time32("s"), time(1, 2, 3), "01:02:03"),
        (pa.time64("us"), time(1, 2, 3, 500_000), "01:02:03.5"),
        (pa.timestamp("s"), MOMENT, "2026-01-02 03:04:05"),
        (pa.timestamp("ns"), MOMENT.replace(microsecond=120_000), "2026-01-02 03:04:05.12"),
        (pa.timestamp("us", "UTC"), SUMMER, "2026-07-02 03:04:05.6Z"),
        (pa.timestamp("us", "Europe/Berlin"), SUMMER, "2026-07-02 05:04:05.6+0200"),
        (pa.timestamp("us", "+05:30"), SUMMER, "2026-07-02 08:34:05.6+0530"),
        (pa.duration("s"), timedelta(0), "PT0S"),
        (pa.duration("s"), timedelta(seconds=-5), "-PT5S"),
        (pa.duration("s"), timedelta(days=10), "P10D"),
        (pa.duration("ms"), timedelta(hours=20, seconds=10), "PT20H10S"),
        (pa.duration("us"), timedelta(days=1, hours=2, minutes=3, seconds=4.5), "P1DT2H3M4.5S"),
        (pa.duration("ns"), timedelta(minutes=10, microseconds=10), "PT10M0.00001S"),
        (pa.uuid(), ID.bytes, str(ID)),
        (pa.json_(), '{"a":  1}', '{"a":  1}'),
        (pa.bool8(), 1, "true"),
    ],
)
def test_a_cell_is_printed_by_one_rule_a_type(kind, value, text):
    assert one(kind, value) == [text, None]


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (pa.list_(pa.string()), ["red", None, 'say "é"\n', ""], '["red", null, "say \\"é\\"\\n", ""]'),
        (pa.large_list(pa.int64()), [2**62, None], "[4611686018427387904, null]"),
        (pa.list_(INT8, 2), [1, 2], "[1, 2]"),
        (pa.list_(INT8, 0), [], "[]"),
        (pa.list_view(INT8), [], "[]"),
        (pa.large_list_view(pa.bool_()), [True, False], "[true, false]"),
        (pa.list_(pa.null()), [None, None], "[null, null]"),
        (pa.list_(pa.float64()), [1.0, 0.1, NAN, -INF, 1e20], '[1, 0.1, "nan", "-inf", 1e+20]'),
        (pa.list_(pa.decimal128(5, 2)), [Decimal("1.50")], "[1.50]"),
        (pa.list_(pa.list_(INT8)), [[1], [], None], "[[1], [], null]"),
        (pa.struct({"z": INT8, "a b": pa.string()}), {"a b": "x"}, '{"z": null, "a b": "x"}'),
        (pa.struct({'"é"': pa.date32()}), {'"é"': date(2026, 1, 2)}, '{"\\"é\\"": "2026-01-02"}'),
        (pa.list_(pa.struct({"t": pa.duration("s")})), [{"t": timedelta(1)}, None], '[{"t": "P1D"}, null]'),
        (pa.map_(pa.string(), INT8), [("z", 1), ("a", None)], '{"z": 1, "a": null}'),
        (pa.map_(pa.string(), INT8), [("", 1), ("null", 2)], '{"": 1, "null": 2}'),
        (pa.map_(INT8, pa.map_(INT8, INT8)), [(1, [(2, 3)]), (4, [])], '{"1": {"2": 3}, "4": {}}'),
        (pa.map_(pa.timestamp("s"), pa.bool_()), [(MOMENT, True)], '{"2026-01-02 03:04:05": true}'),
        (pa.map_(pa.list_(INT8), INT8), [([1], 2)], '{"[1]": 2}'),
    ],
)
def test_what_is_nested_is_printed_as_json(kind, value, text):
    assert one(kind, value) == [text, None]


def test_extension_types_print_within_lists_as_they_do_alone():
    ids = pa.array([ID.bytes, None], pa.uuid())
    flags = pa.array([0, 1], pa.bool8())
    assert printed(pa.ListArray.from_arrays(pa.array([0, 2], pa.int32()), ids)) == [f'["{ID}", null]']
    assert printed(pa.StructArray.from_arrays([flags, ids], ["f", "id"])) == [
        f'{{"f": false, "id": "{ID}"}}',
        '{"f": true, "id": null}',
    ]
    assert printed(pa.MapArray.from_arrays(pa.array([0, 1], pa.int32()), ids[:1], flags[:1])) == [f'{{"{ID}": false}}']


def test_a_null_hides_what_lies_beneath_it():
    mask = pa.array([False, True, False])
    numbers = pa.array([1, 2, 3], INT8)
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), numbers, mask=mask)
    assert printed(lists) == ["[1]", None, "[3]"]
    assert printed(pa.StructArray.from_arrays([lists], ["x"], mask=mask)) == ['{"x": [1]}', None, '{"x": [3]}']


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_a_moment_and_a_duration_read_the_same_in_every_unit(unit):
    moments = [MOMENT.replace(second=10), datetime(1969, 12, 31, 23, 50)]  # noqa: DTZ001
    assert printed(pa.array(moments, pa.timestamp(unit))) == ["2026-01-02 03:04:10", "1969-12-31 23:50:00"]
    assert printed(pa.array([timedelta(days=-400, hours=-10)], pa.duration(unit))) == ["-P400DT10H"]


@given(st.timedeltas(timedelta(days=-100_000_000), timedelta(days=100_000_000)))
def test_a_duration_loses_nothing(duration):
    (text,) = printed(pa.array([duration], pa.duration("us")))
    assert msgspec.convert(text, timedelta) == duration


@given(st.floats(width=16, allow_nan=False))
def test_a_half_float_reads_back_as_itself(half):
    (text,) = printed(pa.array([half], pa.float16()))
    assert pa.scalar(float(text), pa.float16()).as_py() == half


@pytest.mark.parametrize(
    "kind",
    [pa.timestamp("us"), pa.timestamp("s", "UTC"), pa.timestamp("us", "Europe/Berlin"), pa.date64(), pa.time64("ns")],
)
def test_a_moment_beyond_the_calendar_counts_as_null(kind):
    assert printed(pa.array([2**62, 0], pa.int64()).view(kind))[0] is None


def test_categories_print_their_values():
    assert printed(pa.array(["a", None, "a"]).dictionary_encode()) == ["a", None, "a"]
    assert printed(pa.array([7, 8, 7]).dictionary_encode()) == ["7", "8", "7"]


# What has no text


def struct_of_lists(kind):
    return pa.struct({"x": pa.list_(kind)})


@pytest.mark.parametrize("within", [lambda kind: kind, pa.list_, struct_of_lists], ids=["alone", "list", "deep"])
@pytest.mark.parametrize(
    "kind",
    [
        pa.binary(),
        pa.binary(4),
        pa.large_binary(),
        pa.binary_view(),
        pa.dictionary(INT8, pa.binary()),
        pa.map_(pa.binary(), INT8),
        pa.opaque(pa.binary(), "geometry", "postgis"),
    ],
)
def test_bytes_are_refused_before_there_is_a_row(kind, within):
    with pytest.raises(InputError, match=r"'a' holds .*binary.*, and bytes have no plain text. Decode .* images= or"):
        render_column(pa.nulls(0, within(kind)), "a")


@pytest.mark.parametrize("kind", [pa.month_day_nano_interval(), pa.dense_union([pa.field("x", INT8)])])
def test_a_type_without_text_is_refused(kind):
    with pytest.raises(InputError, match=r"Column 'a' holds .*, which has no plain text. Turn it into text"):
        render_column(pa.nulls(0, kind), "a")


@pytest.mark.parametrize("within", [lambda kind: kind, pa.list_], ids=["alone", "list"])
def test_an_unknown_time_zone_is_refused_before_there_is_a_row(within):
    with pytest.raises(InputError, match=r"'a' holds timestamp.*'Mars/Olympus'.*Convert it to UTC or to text\."):
        render_column(pa.nulls(0, within(pa.timestamp("us", "Mars/Olympus"))), "a")


def test_text_is_told_from_what_only_has_a_text():
    assert all(map(is_text, [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(INT8, pa.string())]))
    assert not any(map(is_text, [pa.int64(), pa.binary(), pa.list_(pa.string()), pa.dictionary(INT8, INT8)]))


# Any value of any type


def leaf(kind, values):
    return st.just((kind, values))


def whole(values, unit):
    """Cut moments to what a unit can hold."""
    step = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 1}[unit]
    return values.map(lambda value: value.replace(microsecond=value.microsecond // step * step))


def integers(bits, *, signed):
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return leaf(pa.type_for_alias(f"{'' if signed else 'u'}int{bits}"), st.integers(low, high))


def decimals(kind):
    high = 10**kind.precision - 1
    return leaf(kind, st.integers(-high, high).map(lambda digits: Decimal(f"{digits}E-{kind.scale}")))


def timestamps(unit, zone=None):
    moments = st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1))  # noqa: DTZ001  what `ns` can hold
    return leaf(pa.timestamp(unit, zone), whole(moments, unit))


UNITS = ("s", "ms", "us", "ns")
TIMES = [leaf(pa.time64(unit), st.times()) for unit in ("us", "ns")]
SHORT_TIMES = [leaf(pa.time32(unit), whole(st.times(), unit)) for unit in ("s", "ms")]
DURATIONS = [leaf(pa.duration(unit), st.integers(-(10**9), 10**9)) for unit in UNITS]
ZONED = [timestamps("us", zone) for zone in ("UTC", "Europe/Berlin", "America/New_York")]
# What every door carries.
COMMON = [
    *[integers(bits, signed=signed) for bits in (8, 16, 32, 64) for signed in (True, False)],
    leaf(pa.float32(), st.floats(width=32)),
    leaf(pa.float64(), st.floats()),
    leaf(pa.bool_(), st.booleans()),
    leaf(pa.string(), TEXTS),
    leaf(pa.date32(), st.dates()),
    decimals(pa.decimal128(5, 2)),
    decimals(pa.decimal128(38, 10)),
    *TIMES,
    *[timestamps(unit) for unit in UNITS],
]
POLARS = [*COMMON, *ZONED, *DURATIONS[1:], *SHORT_TIMES, leaf(pa.large_string(), TEXTS)]
DUCKDB = [*COMMON, *SHORT_TIMES, leaf(pa.large_string(), TEXTS)]
ARROW = [
    *POLARS,
    timestamps("ms", "+05:30"),
    DURATIONS[0],
    leaf(pa.null(), st.none()),
    leaf(pa.float16(), st.floats(width=16)),
    leaf(pa.date64(), st.dates()),
    decimals(pa.decimal32(5, 2)),
    decimals(pa.decimal256(60, 20)),
    leaf(pa.dictionary(INT8, pa.string()), TEXTS),
]


def nullable(values):
    return st.none() | values


def lists_of(inner, make=pa.list_):
    kind, values = inner
    return make(kind), st.lists(nullable(values), max_size=3)


def pairs_of(inner):
    kind, values = inner
    return pa.list_(kind, 2), st.lists(nullable(values), min_size=2, max_size=2)


def structs_of(inner):
    names = ["z", "a b", 'é"'][: len(inner)]
    fields = {name: values for name, (_, values) in zip(names, inner, strict=True)}
    kinds = pa.struct({name: kind for name, (kind, _) in zip(names, inner, strict=True)})
    return kinds, st.fixed_dictionaries({name: nullable(values) for name, values in fields.items()})


def maps_of(inner):
    kind, values = inner
    return pa.map_(pa.string(), kind), st.dictionaries(TEXTS, nullable(values), max_size=3).map(lambda d: [*d.items()])


def kinds(leaves, *more):
    """Draw a type of these leaves, however nested, and a strategy of its values."""

    def nested(inner):
        ways = [inner.map(way) for way in (lists_of, pairs_of, *more)]
        return st.one_of(*ways, st.lists(inner, min_size=1, max_size=3).map(structs_of))

    return st.recursive(st.one_of(leaves), nested, max_leaves=4)


@st.composite
def columns(draw, kinds):
    kind, values = draw(kinds)
    return pa.array(draw(st.lists(nullable(values), min_size=1, max_size=5)), kind)


LISTS = [partial(lists_of, make=make) for make in (pa.large_list, pa.list_view, pa.large_list_view)]
ANYTHING = columns(kinds(ARROW, maps_of, *LISTS))


@given(ANYTHING, st.data())
def test_a_slice_prints_as_its_part_of_the_whole(column, data):
    start = data.draw(st.integers(0, len(column)))
    length = data.draw(st.integers(0, len(column)))
    assert printed(column.slice(start, length)) == printed(column)[start : start + length]


@given(ANYTHING)
def test_what_is_nested_prints_as_valid_json_with_the_texts_that_its_parts_have_alone(column):
    lists = pa.ListArray.from_arrays(pa.array([0, len(column)], pa.int32()), column)
    (text,) = printed(lists)
    assert "\n" not in text
    cells = json.loads(text, parse_int=str, parse_float=str, parse_constant=pytest.fail)
    for cell, alone in zip(cells, printed(column), strict=True):
        if isinstance(cell, list | dict):
            assert alone in text
        else:
            assert {True: "true", False: "false"}.get(cell, cell) == alone


@given(st.lists(TEXTS))
def test_text_within_a_list_arrives_as_it_is(texts):
    (text,) = printed(pa.array([texts], pa.list_(pa.string())))
    assert json.loads(text) == texts
    assert text == json.dumps(texts, ensure_ascii=False)


# Through every door


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("doors")


def through(source, folder):
    """Print a column after it has come in by a door."""
    taken = snapshot(source, folder / "snapshot.parquet")
    return [text for _, batch in read_batches(taken.path, {"a"}) for text in printed(batch.column("a"))]


def arrow_frame(table):
    return table.to_pandas(types_mapper=pd.ArrowDtype)


@settings(max_examples=150)
@given(ANYTHING)
def test_any_value_prints_the_same_from_a_file_an_arrow_table_and_a_pandas_frame_of_arrow_types(folder, column):
    table = pa.table({"a": column})
    pq.write_table(table, folder / "table.parquet")
    for source in (folder / "table.parquet", table, arrow_frame(table)):
        assert through(source, folder) == printed(column)


@settings(max_examples=80)
@given(columns(kinds(POLARS)))
def test_what_polars_can_hold_prints_the_same_from_there(folder, column):
    assert through(pl.from_arrow(pa.table({"a": column})), folder) == printed(column)


@settings(max_examples=80)
@given(columns(kinds(DUCKDB, maps_of)))
def test_what_duckdb_can_hold_prints_the_same_from_there(folder, column):
    table = pa.table({"a": column})
    assert through(duckdb.from_arrow(table), folder) == printed(column)


@pytest.mark.parametrize(
    "values",
    [
        [1, -2],
        [True, False],
        [0.1, 3.0],
        pd.array([1, None], dtype="Int64"),
        pd.to_datetime(["2026-01-02 03:04:05.6", None]),
        pd.to_datetime(["2026-01-02 03:04:05.6"]).tz_localize("Europe/Berlin"),
        pd.to_timedelta(["1 days 00:00:05.5", None]),
        pd.Categorical(["b", None, "a"]),
        [date(2026, 1, 2), None],
        [time(1, 2, 3, 4), None],
        [Decimal("1.50"), None],
        [["x", None], [], None],
        [{"z": 1, "a": [{"b": None}]}, None],
    ],
)
def test_a_pandas_frame_prints_what_the_arrow_table_of_it_prints(folder, values):
    column = pa.array(pd.Series(values), from_pandas=True)
    assert through(pd.DataFrame({"a": values}), folder) == printed(column)


def test_a_map_prints_the_same_from_polars(folder):
    maps = pa.array([[("z", 1), ("a", None)], None, []], pa.map_(pa.string(), INT8))
    assert through(pl.from_arrow(pa.table({"a": maps})), folder) == printed(maps)


def test_a_uuid_prints_the_same_from_the_database_and_from_its_files(folder):
    relation = duckdb.sql(f"select '{ID}'::uuid as a")
    relation.write_parquet(str(folder / "uuid.parquet"))
    assert through(relation, folder) == through(folder / "uuid.parquet", folder) == [str(ID)]


@pytest.mark.parametrize(
    "column",
    [
        pa.nulls(1, pa.month_day_nano_interval()),
        pa.nulls(1, pa.run_end_encoded(pa.int32(), pa.string())),
        pa.nulls(1, pa.dense_union([pa.field("x", INT8)])),
        pa.nulls(1, pa.sparse_union([pa.field("x", INT8)])),
        pa.nulls(1, pa.struct([])),
    ],
    ids=lambda column: str(column.type),
)
def test_a_type_that_no_door_carries_is_refused_by_name(folder, column):
    with pytest.raises(InputError, match=r"Column 'a' of the Arrow table is .*, which Parquet cannot hold"):
        through(pa.table({"a": column}), folder)


# JSON and Unicode


@given(st.text())
def test_any_text_is_sent_byte_for_byte(text):
    assert json.loads(encode_text(text)) == text
    check_unicode("The text", text)


def test_half_a_character_is_named_by_its_position():
    with pytest.raises(InputError, match=r"The salt holds half a character .*position 2. Remove it: 'ab\\ud83d'\."):
        check_unicode("The salt", "ab\ud83d")


def test_nothing_inside_a_parameter_is_reordered():
    assert to_json("tools", {"z": [1, {"b": "é", "a": None}]}) == '{"z":[1,{"b":"é","a":null}]}'.encode()


@pytest.mark.parametrize("value", [NAN, INF, {1, 2}, object(), b"x", {"deep": [NAN]}])
def test_a_parameter_that_is_not_json_is_named(value):
    with pytest.raises(InputError, match=r"Parameter 'top_k' cannot be sent as JSON .* Use plain JSON values\."):
        to_json("top_k", value)


def test_a_long_text_is_cut_to_a_line():
    assert shorten("x" * 60) == "x" * 60
    assert shorten("x" * 61) == "x" * 57 + "…"
