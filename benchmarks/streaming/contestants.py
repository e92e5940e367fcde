"""Readers of one answer after the other, each in a process of its own: `python -m benchmarks.streaming.contestants`.

Prints JSON: CPU seconds, seconds until the first text, and peak memory.
"""

import json
import resource
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import click

Read = Callable[[str], float]
ASKED = {"model": "claude-haiku-4-5", "max_tokens": 100_000}


def ours(url: str) -> Read:
    """Read with this library: planning, journal, store and all."""
    import pyarrow as pa  # noqa: PLC0415  each contestant loads what it needs

    import claude_pipeline as cp  # noqa: PLC0415

    store = tempfile.mkdtemp()
    salts = iter(range(1_000_000))

    def read(prompt: str) -> float:
        first: list[float] = []

        def hear(_row: int, _text: str) -> None:
            if not first:
                first.append(time.perf_counter())

        rows = cp.stream(
            pa.table({"text": [prompt]}),
            prompt_column="text",
            store=store,
            base_url=url,
            salt=str(next(salts)),
            on_text=hear,
            **ASKED,
        )
        with rows:
            (row,) = rows
        assert row.result_type == "succeeded", row  # noqa: S101  a benchmark of what fails says nothing
        return row.seconds_to_first_token or 0.0

    return read


def helper(url: str) -> Read:
    """Read with the SDK's `messages.stream`."""
    from anthropic import Anthropic  # noqa: PLC0415

    client = Anthropic(base_url=url, api_key="benchmark")

    def read(prompt: str) -> float:
        begun = time.perf_counter()
        first = 0.0
        with client.messages.stream(messages=[{"role": "user", "content": prompt}], **ASKED) as stream:
            for event in stream:
                if not first and event.type == "content_block_delta":
                    first = time.perf_counter() - begun
            stream.get_final_message()
        return first

    return read


def bare(url: str) -> Read:
    """Read from a socket, event by event, with the standard library alone."""
    place = urlsplit(url)
    connection = socket.create_connection((place.hostname, place.port))
    file = connection.makefile("rb")

    def read(prompt: str) -> float:
        begun = time.perf_counter()
        body = json.dumps({**ASKED, "stream": True, "messages": [{"role": "user", "content": prompt}]})
        connection.sendall(
            f"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()
        )
        first = 0.0
        for line in file:
            if line.startswith(b"data: "):
                event = json.loads(line[6:])
                if not first and event["type"] == "content_block_delta":
                    first = time.perf_counter() - begun
                if event["type"] == "message_stop":
                    file.readline()
                    return first
        return first

    return read


def at_once(url: str, rows: int) -> float:
    """Stream many rows at once with this library; each takes a moment, so that all are under way."""
    import pyarrow as pa  # noqa: PLC0415

    import claude_pipeline as cp  # noqa: PLC0415

    table = pa.table({"text": [f"text 50 0.5 {row}" for row in range(rows * 8)]})
    options = {"prompt_column": "text", "store": tempfile.mkdtemp(), "base_url": url, "max_concurrency": rows}
    return float(sum(row.result_type == "succeeded" for row in cp.stream(table, **options, **ASKED)))


READERS: dict[str, Callable[[str], Read]] = {"ours": ours, "helper": helper, "bare": bare}


def measured(read: Read, prompts: list[str]) -> Iterator[tuple[float, float]]:
    """Yield the CPU and the time to the first text of each prompt, after one that warms up."""
    read("text 5")
    for prompt in prompts:
        begun = time.process_time()
        first = read(prompt)
        yield time.process_time() - begun, first


@click.command()
@click.argument("who")
@click.argument("url")
@click.argument("prompts", nargs=-1)
def main(who: str, url: str, prompts: tuple[str, ...]) -> None:
    """Run a contestant over prompts, or `at-once` over so many rows."""
    if who == "at-once":
        told: object = at_once(url, int(prompts[0]))
    else:
        told = list(measured(READERS[who](url), list(prompts)))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    click.echo(json.dumps({"told": told, "peak_mb": peak_mb}))


if __name__ == "__main__":
    main()
