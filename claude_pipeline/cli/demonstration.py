"""The demo as it is seen: collect, ask, wait, tell."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten

import click
import pyarrow as pa

import claude_pipeline as cp
from claude_pipeline import display
from claude_pipeline.cli.live import progress
from claude_pipeline.cli.options import Place
from claude_pipeline.cli.output import print_table
from claude_pipeline.cli.shell import leave, say
from claude_pipeline.cli.waiting import next_step, wait_for
from claude_pipeline.demo import MAX_TOKENS, MODEL, TEMPLATE, ask, standard_library
from claude_pipeline.errors import OutputError
from claude_pipeline.status import Status
from claude_pipeline.transport import make_client

_HEADER = ("FUNCTION OR CLASS", "RESPONSE")
_WIDTH, _NAME_WIDTH = 80, 30
_TEMPORARY = "nowhere; keep the answers with --out DIR"
_NEXT = """Next, ask your own table:
  claude-pipeline run TABLE.parquet --template "Label: {column}" \\
    --model claude-haiku-4-5 --max-tokens 16 --out labeled.parquet"""


def demonstrate(*, rows: int | None, out: str | None, live: bool) -> None:
    """Ask for a summary of each part of the standard library, and tell what happened."""
    path = _checked(out) if out else None
    with progress("Reading the documentation of Python's standard library"):
        table = standard_library(rows)
    if live:
        make_client(None)  # whoever has no credentials need not be asked
        _confirm(table)
    with _surroundings(live=live) as place:
        _main_job(table, place, path=path, live=live)


def _checked(out: str) -> Path:
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"Cannot make the folder {folder}: {error.strerror}. Choose another --out.") from error
    path = folder / "summaries.parquet"
    cp.check_output(path)
    return path


def _confirm(table: pa.Table) -> None:
    found = cp.estimate(table, template=TEMPLATE, model=MODEL, max_tokens=MAX_TOKENS, exact=0)
    price = (
        f"at most about {display.usd(found.batch_usd.worst)}" if found.batch_usd else "a price that is not known here"
    )
    say(f"{display.count(found.requests)} requests to {MODEL} through the real API, for {price}.")
    click.confirm("Send them?", abort=True, err=True)


@contextmanager
def _surroundings(*, live: bool) -> Iterator[Place]:
    """Make a store, and a sandbox unless the real API is asked."""
    store = tempfile.mkdtemp(prefix="claude-pipeline-demo-")
    if live:
        # Not removed when interrupted: what is paid for can still be collected.
        yield Place(store, "sqlite", None)
        shutil.rmtree(store, ignore_errors=True)
        return
    try:
        with cp.Sandbox(batch_seconds=2) as server:
            yield Place(store, "sqlite", server.url)
    finally:
        shutil.rmtree(store, ignore_errors=True)


def _main_job(table: pa.Table, place: Place, *, path: Path | None, live: bool) -> None:
    if not live:
        say(f"A sandbox at {place.base_url} plays the API: no key, no network, no cost.")
    with progress(f"Sending {display.count(table.num_rows)} rows"):
        job = ask(table, store=place.store, base_url=place.base_url)
    status = _waited(job, place, live=live)
    if status.state == "ended":
        _show(job, status, path=path, live=live)
    else:
        say(next_step(status, place))
    leave(status)


def _waited(job: "cp.Job", place: Place, *, live: bool) -> Status:
    if live:
        return wait_for(job, place, timeout=None, poll_interval=30)
    with progress("Waiting") as show:
        return job.wait(poll_interval=0.25, on_status=show).status()


def _show(job: "cp.Job", status: Status, *, path: Path | None, live: bool) -> None:
    if path:
        job.write(path)
    facts = [*display.facts(status), ("Written", str(path) if path else _TEMPORARY)]
    if not live:
        facts = [(label, _real(text) if label == "Cost" else text) for label, text in facts]
    click.echo("\n" + "\n".join(display.columns([(f"{label}:", text) for label, text in facts])) + "\n")
    print_table(_HEADER, _first_rows(job))
    click.echo(f"\n{_NEXT}")


def _first_rows(job: "cp.Job") -> list[tuple[str, str]]:
    rows = job.to_arrow().slice(0, 5).to_pylist()
    names = [_cut(f"{row['module']}.{row['name']}", _NAME_WIDTH) for row in rows]
    left = _WIDTH - max(map(len, [*names, _HEADER[0]])) - 2
    return [
        (name, shorten(row["response"] or "", left, placeholder=" …")) for name, row in zip(names, rows, strict=True)
    ]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _real(cost: str) -> str:
    return f"nothing; these tokens cost {cost} at the real price"
