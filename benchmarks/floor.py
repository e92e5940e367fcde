"""The same job by hand, as cheap as it gets: bytes on a socket, nothing retried, nothing kept, nothing checked.

Its arguments: INPUT OUTPUT URL STORE TASK. It holds one batch in memory at a time.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from .task import FIELDS, MAX_TOKENS, MODEL, OUTPUT_CONFIG

MAX_BATCH_REQUESTS, MAX_BATCH_BYTES = 100_000, 256_000_000
READ_BYTES = 1 << 20
HEADERS = {"x-api-key": "sandbox", "anthropic-version": "2023-06-01", "content-type": "application/json"}
BATCHES = "/v1/messages/batches"
TYPES = {"integer": pa.int64(), "string": pa.string(), "boolean": pa.bool_()}


class Text(msgspec.Struct, gc=False):
    """A block of an answer."""

    text: str


class Message(msgspec.Struct, gc=False):
    """What is read of an answer."""

    content: tuple[Text]


class Result(msgspec.Struct, gc=False):
    """What is read of a result."""

    message: Message


class Line(msgspec.Struct, gc=False):
    """A line of the results."""

    custom_id: str
    result: Result


class Fields(msgspec.Struct, gc=False):
    """A typed answer."""

    number: int
    opening: str
    positive: bool


def ask(connection: HTTPConnection, method: str, path: str, body: bytes | None = None) -> HTTPResponse:
    """Ask once."""
    connection.request(method, path, body, HEADERS)
    response = connection.getresponse()
    if response.status != 200:  # noqa: PLR2004 - OK
        raise SystemExit(f"{method} {path}: {response.read()[:300]!r}")
    return response


def lines(response: HTTPResponse) -> Iterator[bytes]:
    """Yield the lines of a response, read in large pieces."""
    rest = b""
    while piece := response.read(READ_BYTES):
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole
    if rest:
        yield rest


def requests(prompts: pa.ChunkedArray, *, task: str) -> Iterator[bytes]:
    """Write one request a prompt, named by its row."""
    encode = msgspec.json.encode
    asked: dict[str, object] = {"model": MODEL, "max_tokens": MAX_TOKENS[task]}
    if task == "fields":
        asked["output_config"] = OUTPUT_CONFIG
    head = b'","params":' + encode(asked)[:-1] + b',"messages":[{"role":"user","content":'
    row = 0
    for chunk in prompts.chunks:
        for prompt in chunk.to_pylist():
            yield b'{"custom_id":"%d%b%b}]}}' % (row, head, encode(prompt))
            row += 1


def answers(connection: HTTPConnection, prompts: pa.ChunkedArray, *, task: str) -> list[str]:
    """Send one batch and return the answers in the order of the prompts."""
    body = b'{"requests":[' + b",".join(requests(prompts, task=task)) + b"]}"
    batch = msgspec.json.decode(ask(connection, "POST", BATCHES, body).read())
    del body
    while (
        msgspec.json.decode(ask(connection, "GET", f"{BATCHES}/{batch['id']}").read())["processing_status"] != "ended"
    ):
        time.sleep(0.2)
    found = [""] * len(prompts)
    decode = msgspec.json.Decoder(Line).decode
    for each in map(decode, lines(ask(connection, "GET", f"{BATCHES}/{batch['id']}/results"))):
        found[int(each.custom_id)] = each.result.message.content[0].text
    return found


def answered(table: pa.Table, found: list[str], *, task: str) -> pa.Table:
    """Put the answers beside the rows."""
    if task != "fields":
        return table.append_column("response", pa.array(found, pa.string()))
    typed = list(map(msgspec.json.Decoder(Fields).decode, found))
    for name, kind in FIELDS.items():
        table = table.append_column(name, pa.array([getattr(each, name) for each in typed], TYPES[kind]))
    return table


def tables(source: str) -> Iterator[pa.Table]:
    """Read the input, a batch's worth at a time."""
    if source.endswith(".csv"):
        table = pc.read_csv(source)
        for first in range(0, len(table), MAX_BATCH_REQUESTS):
            yield table.slice(first, MAX_BATCH_REQUESTS)
        return
    held: list[pa.RecordBatch] = []
    for batch in pq.ParquetFile(source, pre_buffer=False).iter_batches(batch_size=10_000):
        held.append(batch)
        if sum(map(len, held)) >= MAX_BATCH_REQUESTS or sum(each.nbytes for each in held) > MAX_BATCH_BYTES // 2:
            yield pa.Table.from_batches(held)
            held = []
    if held:
        yield pa.Table.from_batches(held)


def writer(out: str, schema: pa.Schema) -> pq.ParquetWriter | pc.CSVWriter:
    """Open the output."""
    return pc.CSVWriter(out, schema) if Path(out).suffix == ".csv" else pq.ParquetWriter(out, schema)


def main() -> None:
    """Answer the prompts of a table."""
    source, out, url, _store, task = sys.argv[1:]
    place = urlsplit(url)
    sink = None
    with closing(HTTPConnection(place.hostname or "", place.port)) as connection:
        for table in tables(source):
            done = answered(table, answers(connection, table["prompt"], task=task), task=task)
            sink = sink or writer(out, done.schema)
            sink.write_table(done)
    if sink:
        sink.close()


if __name__ == "__main__":
    main()
