"""The input of a measurement, and the proof that its output is right.

Its arguments: `make PATH FIRST ROWS DISTINCT` or `check INPUT OUTPUT TASK COLUMN`. A process of its own, since a
child's peak memory starts from that of the process that started it.
"""

import json
import sys
from collections.abc import Iterator
from itertools import permutations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from .task import FIELDS, FILLER

SCHEMA = pa.schema({"id": pa.int64(), "prompt": pa.string(), "shop": pa.string(), "price": pa.float64()})
BLOCK_ROWS, ROW_GROUP_ROWS = 20_000, 1 << 20
SCATTER, WIDTH = 0x9E3779B97F4A7C15, 2**64
SHOPS = ["Lisboa", "Zürich", "København", "Łódź", "東京", "São Paulo", "Nairobi", "Αθήνα"]
PRODUCTS = ["kettle", "rain jacket", "desk lamp", "running shoe", "bread knife", "headset", "tent", "bicycle pump"]
OPENINGS = [
    "Bought this {product} after a week of reading reviews",
    "My sister gave me the {product} for my birthday",
    'The box said "{product}, premium", and I was skeptical',
    "This is the third {product} I have owned in five years",
    "Ordered the {product} on Monday and it arrived on Thursday",
    "We use the {product} every single day at the café",
]
OPINIONS = [
    "it does exactly what it promises and the finish is better than on the photographs",
    "the handle came loose on the second day, which support answered with a form letter",
    "for the price I expected less, and it is honestly the best thing on my shelf",
    "the instructions are a translation of a translation, but nothing was hard to work out",
    "it rattles (not loudly, just enough that you stop enjoying the silence)",
    "delivery took €4.90 and eleven days, and the parcel looked as if it had been swimming",
    "after a month of daily use there is not a scratch on it, and I am not a careful person",
    "the color is closer to mustard than to the “warm yellow” of the product page",
]
BODIES = ["; ".join(chosen) for chosen in permutations(OPINIONS, 3)]
BEGINNINGS = [opening.format(product=product) for opening in OPENINGS for product in PRODUCTS]


def review(number: int) -> str:
    """Compose a review whose first sentence, which is what the server answers, tells its number."""
    chosen = number * SCATTER % WIDTH >> 32
    return f"Review {number}: {BEGINNINGS[chosen % len(BEGINNINGS)]}. {BODIES[chosen // 64 % len(BODIES)]}."


def blocks(first: int, rows: int, *, distinct: int) -> Iterator[pa.RecordBatch]:
    """Yield rows, the same every time; with fewer distinct prompts than rows they come again far apart."""
    for start in range(first, first + rows, BLOCK_ROWS):
        ids = range(start, min(start + BLOCK_ROWS, first + rows))
        columns = [
            pa.array(ids, pa.int64()),
            pa.array([review(row % distinct) for row in ids], pa.string()),
            pa.array([SHOPS[row % len(SHOPS)] for row in ids], pa.string()),
            pa.array([row % 9973 / 100 for row in ids], pa.float64()),
        ]
        yield pa.record_batch(columns, schema=SCHEMA)


def make(path: str, *, first: int, rows: int, distinct: int) -> None:
    """Write an input table, in row groups as large as pandas and pyarrow write them."""
    writer = pcsv.CSVWriter(path, SCHEMA) if path.endswith(".csv") else pq.ParquetWriter(path, SCHEMA)
    with writer:
        for start in range(0, rows, ROW_GROUP_ROWS):
            group = blocks(first + start, min(ROW_GROUP_ROWS, rows - start), distinct=distinct)
            writer.write_table(pa.Table.from_batches(group, SCHEMA))


def read(path: str, columns: list[str]) -> pa.Table:
    """Read the columns of a table; pandas writes text back as large_string."""
    if path.endswith(".csv"):
        types = {field.name: field.type for field in SCHEMA}
        return pcsv.read_csv(path, convert_options=pcsv.ConvertOptions(include_columns=columns, column_types=types))
    table = pq.read_table(path, columns=columns)
    text = [
        pa.field(each.name, pa.string() if pa.types.is_large_string(each.type) else each.type) for each in table.schema
    ]
    return table.cast(pa.schema(text))


def paired(source: pa.Table, out: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Return the rows of both that have the same id, in the same order, each once."""
    wanted, ids = source["id"].to_numpy(), out["id"].to_numpy()
    if np.array_equal(wanted, ids):
        return source, out
    there, at = np.unique(ids, return_index=True)
    found = np.isin(wanted, there)
    return source.filter(pa.array(found)), out.take(pa.array(at[np.searchsorted(there, wanted[found])]))


def expected_answers(prompts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the first sentences, which are what the server answers."""
    first = pc.list_element(pc.split_pattern(prompts, ". ", max_splits=1), 0)
    return pc.binary_join_element_wise(first, ".", "")


def right(source: pa.Table, out: pa.Table, *, task: str, column: str) -> np.ndarray:
    """Say of each row whether it has its own answer and everything it came with."""
    first = expected_answers(source["prompt"])
    same = [pc.equal(out[name], source[name]) for name in SCHEMA.names]
    if task == "fields":
        number = pc.cast(pc.struct_field(pc.extract_regex(first, r"^Review (?P<number>\d+)"), "number"), pa.int64())
        even = pc.equal(pc.bit_wise_and(number, 1), 0)
        same += [pc.equal(out[name], each) for name, each in zip(FIELDS, (number, first, even), strict=True)]
    else:
        said = first if task == "text" else pc.binary_join_element_wise(first, FILLER, "")
        same.append(pc.equal(out[column], said))
    flags = [pc.fill_null(each, fill_value=False).to_numpy(zero_copy_only=False) for each in same]
    return np.logical_and.reduce(flags)


def faults(source: pa.Table, out: pa.Table, *, task: str, column: str) -> dict[str, int]:
    """Count the rows that were lost, that came out twice, and that are wrong."""
    doubled = len(out) - len(np.unique(out["id"].to_numpy()))
    lost = len(source)
    source, out = paired(source, out)
    answered = "number" if task == "fields" else column
    silent = out[answered].null_count
    lost += silent - len(source)
    good = sum(
        int(right(source.slice(at, BLOCK_ROWS), out.slice(at, BLOCK_ROWS), task=task, column=column).sum())
        for at in range(0, len(source), BLOCK_ROWS)
    )
    return {"lost": lost, "doubled": doubled, "wrong": len(source) - silent - good}


def check(source: str, out: str, *, task: str, column: str) -> dict[str, int]:
    """Compare an output with its input."""
    added = [*FIELDS] if task == "fields" else [column]
    return faults(read(source, SCHEMA.names), read(out, [*SCHEMA.names, *added]), task=task, column=column)


def main() -> None:
    """Make an input or check an output."""
    match sys.argv[1:]:
        case ["make", path, first, rows, distinct]:
            make(path, first=int(first), rows=int(rows), distinct=int(distinct))
        case ["check", source, out, task, column]:
            sys.stdout.write(json.dumps(check(source, out, task=task, column=column)) + "\n")
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
