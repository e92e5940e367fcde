"""`compare`: how the answers of two jobs differ."""

import json

import click

import claude_pipeline as cp
from claude_pipeline import display
from claude_pipeline.cli import options
from claude_pipeline.cli.live import progress
from claude_pipeline.cli.options import Place
from claude_pipeline.cli.shell import say


@click.command(short_help="Tell how the answers of two jobs differ.")
@click.argument("job_a", metavar="JOB_A")
@click.argument("job_b", metavar="JOB_B")
@click.option("--on", multiple=True, metavar="COLUMN", help="Tells rows apart if the inputs differ; repeatable.")
@click.option("--out", metavar="PATH", help="Write the rows that differ here: .parquet or .csv.")
@options.store
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON on stdout.")
def compare(
    *,
    job_a: str,
    job_b: str,
    on: tuple[str, ...],
    out: str | None,
    store: str | None,
    ledger: str | None,
    as_json: bool,
) -> None:
    """Tell how the answers of JOB_B differ from those of JOB_A, after a change of prompt or model.

    Rows are matched by their position if both jobs have the same input, else by
    the columns of --on.
    """
    if out is not None:
        cp.check_output(out)
    place = Place(store, ledger, None)
    with progress("Comparing"):
        found = cp.compare(place.open(job_a), place.open(job_b), on=on)
    click.echo(json.dumps(found.to_dict(), indent=2, ensure_ascii=False) if as_json else str(found))
    if out is not None:
        found.write(out)
        say(f"Wrote {display.plural(found.different, 'row')} to {out}")
