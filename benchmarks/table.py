"""The input of a measurement, and the proof that its output is right.

Its arguments: `make ROWS PATH` or `check INPUT OUTPUT`. A process of its own, since a child's peak memory
starts from that of the process that started it.
"""

import random
import sys
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

SCHEMA = pa.schema({"id": pa.int64(), "prompt": pa.string(), "shop": pa.string(), "price": pa.float64()})
BLOCK_ROWS = 50_000
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


def review(row: int, *, choose: random.Random) -> str:
    """Compose a review whose first sentence, which is what the sandbox answers, names its row."""
    opening = choose.choice(OPENINGS).format(product=choose.choice(PRODUCTS))
    return f"Review {row}: {opening}. " + "; ".join(choose.sample(OPINIONS, 3)) + "."


def blocks(rows: int) -> Iterator[pa.RecordBatch]:
    """Yield the table of so many rows, the same every time and no prompt twice."""
    choose = random.Random(20_261_122)  # noqa: S311 - reviews, not secrets
    for first in range(0, rows, BLOCK_ROWS):
        ids = range(first, min(first + BLOCK_ROWS, rows))
        columns = [
            pa.array(ids, pa.int64()),
            pa.array([review(row, choose=choose) for row in ids], pa.string()),
            pa.array([SHOPS[row % len(SHOPS)] for row in ids], pa.string()),
            pa.array([row % 9973 / 100 for row in ids], pa.float64()),
        ]
        yield pa.record_batch(columns, schema=SCHEMA)


def make(rows: int, *, path: str) -> None:
    """Write the input table."""
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for block in blocks(rows):
            writer.write_batch(block)


def expected_answer(prompt: str) -> str:
    """Return what the sandbox answers: the first sentence."""
    return prompt.partition(". ")[0] + "."


def faults(source: pa.Table, out: pa.Table) -> Iterator[str]:
    """Name what is wrong with an output: rows lost, doubled, reordered or misjoined."""
    if out.num_rows != source.num_rows:
        yield f"{source.num_rows:,} rows went in and {out.num_rows:,} came out"
        return
    for name in source.column_names:
        # pandas writes text back as large_string
        if not out[name].cast(source[name].type).equals(source[name]):
            yield f"column {name!r} has changed"
    expected = pa.chunked_array(pa.array(map(expected_answer, chunk.to_pylist())) for chunk in source["prompt"].chunks)
    right = pc.sum(pc.equal(expected, out["response"].cast(pa.string()))).as_py() or 0
    if right != source.num_rows:
        yield f"{source.num_rows - right:,} rows have no answer or another row's"


def check(source: str, *, out: str) -> None:
    """Exit with what is wrong with an output, if anything is."""
    if found := list(faults(pq.read_table(source), pq.read_table(out))):
        sys.exit(f"{out}: {'; '.join(found)}.")


def main() -> None:
    """Make an input or check an output."""
    match sys.argv[1:]:
        case ["make", rows, path]:
            make(int(rows), path=path)
        case ["check", source, out]:
            check(source, out=out)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
