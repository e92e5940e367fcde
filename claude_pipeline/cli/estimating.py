"""`estimate`: what a table would cost, before anything is sent."""

import json
from typing import Unpack

import click

import claude_pipeline as cp
from claude_pipeline.cli import options
from claude_pipeline.cli.brief import BriefCommand
from claude_pipeline.cli.live import progress
from claude_pipeline.cli.requesting import Requesting, check_prompt, requesting


@click.command(cls=BriefCommand, short_help="Tell what a table would cost, and send nothing.")
@requesting
@click.option(
    "--exact",
    type=click.IntRange(min=0),
    metavar="N",
    help="Let the API count the tokens of N requests, for nothing; default 20, or 0 without credentials.",
)
@options.place
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON on stdout.")
def estimate(*, source: tuple[str, ...], exact: int | None, as_json: bool, **settings: Unpack[Requesting]) -> None:
    """Tell what `run` or `submit` of the same options would send and cost.

    SOURCE is one or more Parquet or CSV files or globs of one schema. Nothing
    is sent or written. What the store has answers for is free; for the rest the
    API counts the tokens of a sample, which costs nothing.

    \b
      claude-pipeline estimate reviews.parquet --prompt-column prompt \\
        --model claude-haiku-4-5 --max-tokens 16
    """  # noqa: D301  # click keeps the lines after a backspace as they are
    check_prompt(settings)
    with progress(f"Reading {', '.join(source)}"):
        found = cp.estimate(source[0] if len(source) == 1 else list(source), exact=exact, **settings)
    click.echo(json.dumps(found.to_dict(), indent=2, ensure_ascii=False) if as_json else str(found))
