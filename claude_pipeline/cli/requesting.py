"""The options that make rows requests, and requests batches; named as the public functions name them."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import click

from claude_pipeline.caching import Cache
from claude_pipeline.cli.options import Decorator, together

if TYPE_CHECKING:
    from claude_pipeline.derived import Content  # loads Arrow
    from claude_pipeline.retrying import Retry  # as above

_EXAMPLE = "--prompt-column prompt, or --template 'Label: {text}'"


class Requesting(TypedDict):
    """What makes a row a request, from the command line."""

    prompt_column: str | None
    template: str | None
    template_file: str | None
    messages_column: str | None
    images: tuple[str, ...]
    documents: tuple[str, ...]
    system: str | None
    system_file: str | None
    model: str | None
    max_tokens: int | None
    params: dict[str, object]
    params_columns: dict[str, str]
    betas: tuple[str, ...]
    cache: Cache | None
    output_schema: object
    fill_null: str | None
    limit: int | None
    salt: str | None
    salt_column: str | None
    store: str | None
    ledger: str | None
    base_url: str | None


class Answers(TypedDict):
    """How answers are wanted, and what they may cost."""

    name: str | None
    id_column: str | None
    prefix: str
    content: "Content | None"
    preflight: bool
    max_cost_usd: float | None
    max_attempts: int


class Settings(Requesting, Answers):
    """What `cp.submit` takes from the command line."""

    on_invalid: "Retry | None"
    on_truncated: "Retry | None"
    prime_cache: bool
    max_batch_requests: int
    max_batch_bytes: int
    max_queued_requests: int


def _params(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, object]:
    return {
        key: _json(key, text, ctx, param) for key, text in _pairs(ctx, param, values, "JSON, as in top_k=5").items()
    }


def _columns(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    return _pairs(ctx, param, values, "COLUMN, as in max_tokens=limit")


def _pairs(ctx: click.Context, param: click.Parameter, values: Sequence[str], what: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not (key and equals):
            raise click.BadParameter(f"{value!r} is not KEY={what}.", ctx, param)
        if key in pairs:
            raise click.BadParameter(f"{key!r} is given twice.", ctx, param)
        pairs[key] = text
    return pairs


def _json(key: str, text: str, ctx: click.Context, param: click.Parameter) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        quoted = shlex.quote(f"{key}={json.dumps(text)}")
        raise click.BadParameter(
            f"the value of {key!r} is not JSON: {text}. A text needs double quotes: --param {quoted}", ctx, param
        ) from error


def _schema(ctx: click.Context, param: click.Parameter, value: str | None) -> object:
    if value is None or not value.endswith(".json"):
        return value
    try:
        return json.loads(Path(value).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"{value} cannot be read as JSON: {error}.", ctx, param) from error


_AT_LEAST_ONE = click.IntRange(min=1)
_REQUESTING: list[Decorator] = [
    click.argument("source", nargs=-1, required=True),
    click.option("--prompt-column", metavar="COLUMN", help="The column that holds the whole prompt."),
    click.option("--template", metavar="TEXT", help="A prompt with {column} where a column's value goes."),
    click.option("--template-file", metavar="PATH", help="The same, read from a file."),
    click.option("--messages-column", metavar="COLUMN", help="Conversations so far, as lists of role and content."),
    click.option("--images", multiple=True, metavar="COLUMN", help="Images: bytes, paths or URLs; repeatable."),
    click.option("--documents", multiple=True, metavar="COLUMN", help="The same for PDF and text; repeatable."),
    click.option("--system", metavar="TEXT", help="System prompt; may have {column} as a template has."),
    click.option("--system-file", metavar="PATH", help="The same, read from a file."),
    click.option("--model", metavar="NAME", help="For example claude-haiku-4-5."),
    click.option("--max-tokens", type=_AT_LEAST_ONE, metavar="N", help="The longest answer, in tokens."),
    click.option(
        "--param",
        "params",
        multiple=True,
        callback=_params,
        metavar="KEY=JSON",
        help="Another Messages parameter; repeatable.",
    ),
    click.option(
        "--param-column",
        "params_columns",
        multiple=True,
        callback=_columns,
        metavar="KEY=COLUMN",
        help="A parameter that each row brings along; repeatable.",
    ),
    click.option("--beta", "betas", multiple=True, metavar="NAME", help="A beta feature to ask with; repeatable."),
    click.option(
        "--cache", type=click.Choice(["5m", "1h"]), help="Cache the tools, system prompt and template's beginning."
    ),
    click.option(
        "--schema",
        "--output-schema",
        "output_schema",
        callback=_schema,
        metavar="TEXT|PATH",
        help="Typed answers: 'label: good|bad, score: float', or a file with a JSON schema.",
    ),
    click.option("--fill-null", metavar="TEXT", help="Stands for a null in a field; else the row is not sent."),
    click.option("--limit", type=_AT_LEAST_ONE, metavar="N", help="Only the first N rows."),
    click.option("--salt", metavar="TEXT", help="Another salt asks, and pays, afresh."),
    click.option("--salt-column", metavar="COLUMN", help="The same row by row: several samples of one prompt."),
]
_ANSWERING: list[Decorator] = [
    click.option("--name", metavar="TEXT", help="What `list` calls the job."),
    click.option("--id-column", metavar="COLUMN", help="Names rows in error messages."),
    click.option("--prefix", default="", metavar="TEXT", help="Goes before the names of the added columns."),
    click.option("--content", type=click.Choice(["json"]), help="Add a column with all blocks of an answer."),
    click.option(
        "--max-cost-usd",
        type=click.FloatRange(min=0, min_open=True),
        metavar="USD",
        help="The most that the job may cost.",
    ),
    click.option(
        "--preflight/--no-preflight",
        default=True,
        help="Show the first request to the API before sending. [default: on]",
    ),
    click.option("--max-attempts", default=3, type=_AT_LEAST_ONE, metavar="N", help="Per row, default 3."),
]
_BATCHING: list[Decorator] = [
    click.option("--on-invalid", type=click.Choice(["retry"]), help="Ask again, and pay for, what does not fit."),
    click.option(
        "--on-truncated", type=click.Choice(["retry"]), help="The same with what was cut off, with twice the limit."
    ),
    click.option("--prime-cache", is_flag=True, help="Send one request ahead to fill the cache."),
    click.option(
        "--max-batch-requests", default=100_000, type=_AT_LEAST_ONE, metavar="N", help="Per batch, default 100000."
    ),
    click.option(
        "--max-batch-bytes",
        default=256_000_000,
        type=_AT_LEAST_ONE,
        metavar="N",
        help="Per batch, default 256000000.",
    ),
    click.option(
        "--max-queued-requests",
        default=200_000,
        type=_AT_LEAST_ONE,
        metavar="N",
        help="In the API's queue at once, default 200000.",
    ),
]

requesting = together(_REQUESTING)
answering = together(_ANSWERING)
asking = together([*_REQUESTING, *_ANSWERING, *_BATCHING])


def check_prompt(settings: Requesting) -> None:
    """Make sure that the command line says what to ask, and whom.

    Raises:
        UsageError: It does not.
    """
    given = [key for key in ("prompt_column", "template", "template_file") if settings[key]]
    if len(given) > 1:
        names = " and ".join(f"--{key.replace('_', '-')}" for key in given)
        raise click.UsageError(f"{names} exclude each other; give one of them.")
    if not given and not (settings["messages_column"] or settings["images"] or settings["documents"]):
        raise click.UsageError(f"Missing the prompt: give {_EXAMPLE}, or --template-file PATH.")
    for key in ("model", "max_tokens"):
        if settings[key] is None and key not in settings["params_columns"]:
            raise click.UsageError(f"Missing option '--{key.replace('_', '-')}'.")
