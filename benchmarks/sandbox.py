"""Measure what the sandbox itself costs, so that it is never what another benchmark measures.

Run it with `uv run python -m benchmarks.sandbox`.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from statistics import median
from subprocess import PIPE, Popen

import click
import msgspec
import psutil
from rich.console import Console
from rich.table import Table

MB = 1_000_000
HEADERS = {"authorization": "Bearer any", "anthropic-version": "2026-10-21", "content-type": "application/json"}
BATCHES = "/v1/messages/batches"
WORDS = "The service was quick and the food was fine, so we would come again soon. "
GOAL_CPU_SECONDS = 3.0
READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Server:
    """A sandbox in a process of its own."""

    process: psutil.Process
    port: int

    def cpu_seconds(self) -> float:
        """Return user and system seconds so far."""
        times = self.process.cpu_times()
        return times.user + times.system

    def memory_mb(self) -> float:
        """Return what it holds of memory that is not a file's, in MB."""
        return (self.process.memory_full_info().uss - self._mapped()) / MB

    def _mapped(self) -> int:
        return sum(m.rss for m in self.process.memory_maps() if m.path.endswith("(deleted)"))

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Ask once and return the size of the answer and its beginning."""
        connection = HTTPConnection("127.0.0.1", self.port)
        connection.request(method, path, body=body, headers=HEADERS)
        response = connection.getresponse()
        head = response.read(READ_BYTES)
        size = len(head)
        while chunk := response.read(READ_BYTES):
            size += len(chunk)
        connection.close()
        if response.status != 200:  # noqa: PLR2004 - OK
            raise click.ClickException(f"{method} {path}: {response.status} {head[:300]!r}")
        return size, head


@contextmanager
def server() -> Iterator[Server]:
    """Run a sandbox."""
    with Popen([sys.executable, "-m", "claude_pipeline.sandbox"], stdout=PIPE, text=True) as process:
        try:
            assert process.stdout  # noqa: S101 - a pipe was asked for
            url = process.stdout.readline().strip()
            yield Server(psutil.Process(process.pid), int(url.rpartition(":")[2]))
        finally:
            process.terminate()


def batch_body(rows: int, *, row_bytes: int) -> bytes:
    """Build a batch of requests of about `row_bytes` each."""
    text = (WORDS * (row_bytes // len(WORDS) + 1))[: row_bytes - 160]
    params = {"model": "claude-haiku-4-5", "max_tokens": 64}
    requests = [
        {"custom_id": f"{row:032x}", "params": {**params, "messages": [{"role": "user", "content": f"{row} {text}"}]}}
        for row in range(rows)
    ]
    return msgspec.json.encode({"requests": requests})


def measure_batch(rows: int, *, row_bytes: int) -> dict[str, float]:
    """Send a batch, look until it has ended, read the results; return the server's cost."""
    body = batch_body(rows, row_bytes=row_bytes)
    with server() as sandbox:
        sandbox.ask("GET", BATCHES)
        cpu, memory = sandbox.cpu_seconds(), sandbox.memory_mb()
        _, answer = sandbox.ask("POST", BATCHES, body)
        created = sandbox.cpu_seconds()
        path = f"{BATCHES}/{msgspec.json.decode(answer)['id']}"
        sandbox.ask("GET", path)
        size, _ = sandbox.ask("GET", f"{path}/results")
        return {
            "body MB": len(body) / MB,
            "create CPU s": created - cpu,
            "results CPU s": sandbox.cpu_seconds() - created,
            "CPU s": sandbox.cpu_seconds() - cpu,
            "bytes kept a row": (sandbox.memory_mb() - memory) * MB / rows,
            "peak MB": peak_mb(sandbox),
            "results MB": size / MB,
        }


def peak_mb(sandbox: Server) -> float:
    """Return the most memory that was resident at once, pages of files included."""
    with open(f"/proc/{sandbox.process.pid}/status") as status:  # noqa: PTH123 - a line of the kernel's
        return next(int(line.split()[1]) * 1024 / MB for line in status if line.startswith("VmHWM"))


def measure_streams(count: int) -> dict[str, float]:
    """Read `count` streams at once; return the server's cost and how many came to their end."""
    turn = {"role": "user", "content": WORDS * 20 + "."}
    body = {"model": "claude-haiku-4-5", "max_tokens": 400, "stream": True, "messages": [turn]}
    ended: list[bool] = []

    def read(sandbox: Server) -> None:
        connection = HTTPConnection("127.0.0.1", sandbox.port)
        connection.request("POST", "/v1/messages", body=msgspec.json.encode(body), headers=HEADERS)
        ended.append(b"message_stop" in connection.getresponse().read())
        connection.close()

    with server() as sandbox:
        sandbox.ask("GET", BATCHES)
        cpu = sandbox.cpu_seconds()
        threads = [threading.Thread(target=read, args=(sandbox,)) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {"streams ended": sum(ended), "CPU s": sandbox.cpu_seconds() - cpu, "peak MB": peak_mb(sandbox)}


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each figure."""
    return {name: median(run[name] for run in runs) for name in runs[0]}


def show(title: str, figures: dict[str, float]) -> None:
    """Print figures as a table of one row."""
    table = Table(*figures, title=title, title_justify="left")
    table.add_row(*(f"{value:,.2f}" if value < 10 else f"{value:,.0f}" for value in figures.values()))  # noqa: PLR2004 - digits
    Console().print(table)


@click.command()
@click.option("--rows", default=100_000, show_default=True, help="Requests of the batch.")
@click.option("--rounds", default=3, show_default=True, help="Runs; the tables show medians.")
@click.option("--streams", default=400, show_default=True, help="Streams read at once.")
def main(rows: int, *, rounds: int, streams: int) -> None:
    """Measure the sandbox's own CPU and memory over a real socket."""
    figures = medians([measure_batch(rows, row_bytes=500) for _ in range(rounds)])
    show(f"{rows:,} requests of 500 bytes: create, retrieve, results", figures)
    limit = GOAL_CPU_SECONDS * rows / 100_000
    click.echo(f"{figures['CPU s']:.2f} s of CPU; the goal is at most {limit:.2f}")
    show("A body of 250 MB", medians([measure_batch(10_000, row_bytes=25_000) for _ in range(rounds)]))
    show(f"{streams} streams at once", medians([measure_streams(streams) for _ in range(rounds)]))


if __name__ == "__main__":
    main()
