"""`report`: a job as a page with pictures."""

import click

import claude_pipeline as cp
from claude_pipeline.cli import options
from claude_pipeline.cli.shell import say


@click.command(short_help="Write a page with pictures about a job.")
@options.job_argument
@click.option("--out", required=True, metavar="PATH", help="Write here, such as report.html.")
@options.store
def report(*, job_id: str, out: str, store: str | None, ledger: str | None) -> None:
    """Write one HTML page about JOB: rows, tokens, time, cost, errors, as far as known.

    It needs nothing else to be shown, and the API is not asked. The pictures
    need matplotlib: pip install "claude-pipeline[plot]".

    \b
      claude-pipeline report job_td7eocqpecwxdsxe --out report.html
    """  # noqa: D301  # click keeps the lines after a backspace as they are
    say(f"Written to {cp.open_job(job_id, store=store, ledger=ledger).report(out)}")
