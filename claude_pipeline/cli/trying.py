"""`demo`: the whole thing without a key."""

import click


@click.command(short_help="See it work: no key, no network, no cost.")
@click.option("--rows", type=click.IntRange(min=1), metavar="N", help="Only N rows [default: all, some thousands].")
@click.option(
    "--out",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Keep the answers in DIR/summaries.parquet.",
)
@click.option("--live", is_flag=True, help="Ask the real API; shows the cost and asks first.")
def demo(*, rows: int | None, out: str | None, live: bool) -> None:
    """Summarize Python's own standard library, a sentence for every function.

    A sandbox on this machine plays the API, so it needs no key and no network.

    \b
      claude-pipeline demo
      claude-pipeline demo --rows 200 --out answers
    """  # noqa: D301  # click keeps the lines after a backspace as they are
    from claude_pipeline.cli.demonstration import demonstrate  # noqa: PLC0415  # help must not pay for pyarrow

    demonstrate(rows=rows, out=out, live=live)
