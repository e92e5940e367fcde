"""`sandbox` and `demo`: the whole thing without a key."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from claude_pipeline.cli.shell import say

if TYPE_CHECKING:
    from claude_pipeline.sandbox import Sandbox


def _rates(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, float]:
    rates = {}
    for value in values:
        error_type, _, share = value.partition("=")
        try:
            rates[error_type] = float(share)
        except ValueError as error:
            raise click.BadParameter(f"{value!r} is not TYPE=SHARE, as in api_error=0.02.", ctx, param) from error
    return rates


@click.command(short_help="Serve the Message Batches API on this machine.")
@click.option("--host", default="127.0.0.1", metavar="HOST", help="Listen here, default 127.0.0.1.")
@click.option("--port", default=8080, type=click.IntRange(0, 65535), metavar="N", help="Default 8080; 0: a free one.")
@click.option(
    "--batch-seconds",
    default=2.0,
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="How long a batch takes, default 2.",
)
@click.option(
    "--error-rate",
    "error_rates",
    multiple=True,
    callback=_rates,
    metavar="TYPE=SHARE",
    help="Let a share of the rows fail, as in api_error=0.02; repeatable.",
)
@click.option("--expire-rate", default=0.0, metavar="SHARE", help="Let a share of the rows expire.")
@click.option("--max-queued-requests", type=click.IntRange(min=1), metavar="N", help="The queue's limit.")
@click.option("--data", type=click.Path(file_okay=False), metavar="DIR", help="Keep the batches here, over restarts.")
@click.option("--seed", default=0, metavar="N", help="Chooses which rows fail, and the order of results.")
def sandbox(**settings: Any) -> None:  # noqa: ANN401  # the options are the arguments of Sandbox
    """Serve the Message Batches API on this machine, for nothing, until Ctrl-C.

    The URL goes to stdout; answers repeat the first sentence of the prompt.

    \b
      claude-pipeline sandbox --port 8080 --error-rate api_error=0.02
      claude-pipeline run reviews.parquet --base-url http://127.0.0.1:8080 ...
    """  # noqa: D301  # click keeps the lines after a backspace as they are
    from claude_pipeline.sandbox import Sandbox, run_sandbox  # noqa: PLC0415  # loads a web server

    try:
        run_sandbox(Sandbox(**settings), on_ready=_introduce)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error


def _introduce(server: "Sandbox") -> None:
    click.echo(server.url)
    say("Ask it with --base-url or ANTHROPIC_BASE_URL; Ctrl-C stops it.")


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
