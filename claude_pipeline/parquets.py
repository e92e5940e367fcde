"""The store's Parquet files, read in batches of about a megabyte."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from claude_pipeline.arrays import give_back
from claude_pipeline.copies import local_copy
from claude_pipeline.errors import StoreError
from claude_pipeline.files import reading
from claude_pipeline.places import Place

READ_BYTES = 1_000_000
_MAX_READ_ROWS = 65_536
_GIVE_BACK_BATCHES = 16  # which costs 0.03 µs a row, and keeps 25 MB less
_PARQUET_BUFFER = 1 << 18


def open_parquet(path: Place) -> pq.ParquetFile:
    """Open a Parquet file of the store so that reading it in batches stays small in memory.

    Raises:
        StoreError: It is there no more, or it is damaged.
    """
    try:
        return pq.ParquetFile(local_copy(path), pre_buffer=False, buffer_size=_PARQUET_BUFFER)
    except FileNotFoundError as error:
        raise StoreError(f"{path} is missing from the store. Bring it back from a backup, or submit anew.") from error
    except pa.ArrowInvalid as error:
        raise StoreError(f"{path} is damaged. Bring it back from a backup, or submit anew.") from error


def row_bytes(file: pq.ParquetFile, columns: set[str] | None = None) -> int:
    """Estimate the bytes of a row in memory, of these columns or of all."""
    total = 0
    for group in range(file.metadata.num_row_groups):
        metadata = file.metadata.row_group(group)
        chunks = (metadata.column(column) for column in range(metadata.num_columns))
        total += sum(
            chunk.total_uncompressed_size
            for chunk in chunks
            if columns is None or chunk.path_in_schema.partition(".")[0] in columns or chunk.path_in_schema in columns
        )
    return max(1, int(total) // max(1, int(file.metadata.num_rows)))


def rows_within(bytes_a_row: int, *, size: int = READ_BYTES) -> int:
    """Return how many rows make a batch of about `size` bytes."""
    return max(1, min(_MAX_READ_ROWS, size // bytes_a_row))


def read_batches(
    path: Place, columns: set[str], *, between: tuple[int, int] | None = None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield batches of about 1 MB of these columns, each with the number of its first row.

    `between` skips the row groups that hold no row from its first to its last, and what comes after that.
    """
    with reading(path), open_parquet(path) as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        ends = np.cumsum(sizes)
        groups = list(range(len(sizes)))
        if between is not None:
            groups = [g for g in groups if ends[g] > between[0] and ends[g] - sizes[g] <= between[1]]
        if not groups:
            return
        row = int(ends[groups[0]] - sizes[groups[0]])
        rows = rows_within(row_bytes(file, columns))
        wanted = sorted(columns)
        batches = file.iter_batches(batch_size=rows, row_groups=groups, columns=wanted, use_threads=False)
        for number, batch in enumerate(batches):
            yield row, batch
            row += batch.num_rows
            if between is not None and row > between[1]:
                return
            if number % _GIVE_BACK_BATCHES == 0:
                give_back()
