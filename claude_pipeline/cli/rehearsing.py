"""`sandbox`: rehearse against a local server that speaks the API."""

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING, Any

import click

from claude_pipeline.cli.shell import say

if TYPE_CHECKING:
    from claude_pipeline.sandbox import Sandbox
    from claude_pipeline.sandbox.log import Entry

SECONDS = click.FloatRange(min=0)


def _rates(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, float]:
    rates = {}
    for value in values:
        error_type, _, share = value.partition("=")
        try:
            rates[error_type] = float(share)
        except ValueError as error:
            raise click.BadParameter(f"{value!r} is not TYPE=SHARE, as in api_error=0.02.", ctx, param) from error
    return rates


@click.command(short_help="Rehearse: serve the API on this machine, for nothing.")
@click.option("--host", default="127.0.0.1", metavar="HOST", help="Listen here, default 127.0.0.1.")
@click.option("--port", default=8080, type=click.IntRange(0, 65535), metavar="N", help="Default 8080; 0: a free one.")
@click.option(
    "--batch-seconds", default=2.0, type=SECONDS, metavar="SECONDS", help="How long a batch takes, default 2."
)
@click.option(
    "--answers",
    default="facts",
    metavar="NAME",
    help="facts (the first sentence of the prompt, default), echo, or module:function of your own.",
)
@click.option(
    "--faults",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="What goes wrong, and when: TOML or JSON, see docs/sandbox.md.",
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
@click.option("--tier", metavar="TIER", help="Limit calls, tokens and the queue as in start, build or scale.")
@click.option("--max-queued-requests", type=click.IntRange(min=1), metavar="N", help="The queue's limit.")
@click.option(
    "--latency", default=0.0, type=SECONDS, metavar="SECONDS", help="Wait before the first token of a message."
)
@click.option("--tokens-per-second", default=inf, metavar="N", help="How fast the tokens of a message come.")
@click.option("--clock-speed", default=1.0, type=SECONDS, metavar="X", help="3600 lets an hour pass in a second.")
@click.option("--workspace-per-key", is_flag=True, help="Let each API key see its own batches only.")
@click.option("--data", type=click.Path(file_okay=False), metavar="DIR", help="Keep the batches here, over restarts.")
@click.option("--conformance", is_flag=True, help="Know every id, for the test suites of other clients.")
@click.option("--seed", default=0, metavar="N", help="Chooses which rows fail, and the order of results.")
@click.option("--quiet", is_flag=True, help="Do not log a line for each request.")
def sandbox(*, answers: str, workspace_per_key: bool, quiet: bool, **settings: Any) -> None:  # noqa: ANN401  # Sandbox's arguments
    """Speak the Anthropic API on this machine, for nothing, until Ctrl-C.

    The line to paste into another shell goes to stdout, a line for each request to stderr.

    \b
      claude-pipeline sandbox --error-rate api_error=0.02
      claude-pipeline sandbox --faults nightly.toml --tier start
    """  # noqa: D301  # click keeps the lines after a backspace as they are
    from claude_pipeline.sandbox import Sandbox, run_sandbox  # noqa: PLC0415  # loads a web server

    if workspace_per_key:
        settings["workspace"] = None
    try:
        server = Sandbox(**settings, answer=answers, on_request=None if quiet else _log)
        run_sandbox(server, on_ready=_introduce)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    except OSError as error:
        raise click.ClickException(str(error)) from error


def _introduce(server: "Sandbox") -> None:
    here = server.url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    click.echo(f"export ANTHROPIC_BASE_URL={here} ANTHROPIC_API_KEY=sandbox")
    say("Paste this line into another shell: there, every client asks the sandbox. Ctrl-C stops it.")
    if here != server.url:
        say("Every machine that reaches this one can ask it, too, with any key, and read what it was sent.")


def _log(entry: "Entry") -> None:
    say(entry.line())
