"""`run` and `submit`: from a table to a job."""

from typing import Unpack

import click

import claude_pipeline as cp
from claude_pipeline.cli import options
from claude_pipeline.cli.live import progress
from claude_pipeline.cli.options import Place
from claude_pipeline.cli.output import print_json
from claude_pipeline.cli.requesting import Settings, asking, check_prompt
from claude_pipeline.cli.shell import leave, say, stop
from claude_pipeline.cli.waiting import next_step, report, wait_for, written


@click.command(short_help="Ask every row of a table, wait, and write the answers.")
@asking
@options.out
@options.waiting
@options.place
@options.as_json
def run(
    *,
    source: tuple[str, ...],
    out: str,
    poll_interval: float,
    timeout: float | None,
    as_json: bool,
    **settings: Unpack[Settings],
) -> None:
    """Ask every row of SOURCE, wait, and write the rows with their answers.

    SOURCE is one or more Parquet or CSV files or globs of one schema. Killed or
    interrupted, the same command picks up where it was; nothing is paid twice.

    \b
      claude-pipeline run reviews.parquet --out labeled.parquet \\
        --template "Label the sentiment: {text}" \\
        --model claude-haiku-4-5 --max-tokens 16
    """  # noqa: D301  # click keeps the lines after a backspace as they are
    cp.check_output(out)
    job = _submit(source, settings)
    if not as_json:
        click.echo(job.job_id)
    place = Place(settings["store"], settings["ledger"], settings["base_url"])
    status = wait_for(job, place, timeout=timeout, poll_interval=poll_interval)
    if status.state == "ended":
        written(job, out)
    report(status, place, as_json=as_json)


@click.command(short_help="Send a table's requests and print the job's id.")
@asking
@options.place
@options.as_json
def submit(*, source: tuple[str, ...], as_json: bool, **settings: Unpack[Settings]) -> None:
    """Plan and send the requests of SOURCE, print the job's id, and return.

    SOURCE is one or more Parquet or CSV files or globs of one schema. The same
    submit is the same job; only rows that have no answer yet are asked.

    \b
      job=$(claude-pipeline submit reviews.parquet --prompt-column prompt \\
        --model claude-haiku-4-5 --max-tokens 16)
      claude-pipeline wait $job && claude-pipeline write $job --out labeled.csv
    """  # noqa: D301  # click keeps the lines after a backspace as they are
    job = _submit(source, settings)
    status = job.status()
    if as_json:
        print_json(status)
    else:
        click.echo(job.job_id)
    place = Place(settings["store"], settings["ledger"], settings["base_url"])
    say(next_step(status, place))
    if status.state == "blocked":
        leave(status)


def _submit(source: tuple[str, ...], settings: Settings) -> "cp.Job":
    check_prompt(settings)
    try:
        with progress(f"Planning and sending {', '.join(source)}"):
            return cp.submit(source[0] if len(source) == 1 else list(source), **settings)
    except KeyboardInterrupt as interruption:
        say("Interrupted while sending. Nothing is lost: the same command picks up where it was.")
        stop(interruption)
