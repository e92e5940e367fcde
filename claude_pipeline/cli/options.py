"""The options that commands share, named as the public functions name them."""

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import click

import claude_pipeline as cp


class Settings(TypedDict):
    """What `cp.submit` takes from the command line."""

    prompt_column: str | None
    template: str | None
    template_file: str | None
    system: str | None
    model: str
    max_tokens: int
    params: dict[str, object]
    limit: int | None
    name: str | None
    id_column: str | None
    salt: str | None
    prefix: str
    max_attempts: int
    max_batch_requests: int
    max_batch_bytes: int
    max_queued_requests: int
    store: str | None
    base_url: str | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job lives and whom it asks, to open it and to say how it is opened again."""

    store: str | None
    base_url: str | None

    def open(self, job_id: str) -> "cp.Job":
        """Open the job that lives here."""
        return cp.open_job(job_id, store=self.store, base_url=self.base_url)

    def command(self, verb: str, job_id: str) -> str:
        """Write the command that does `verb` to the job from this very folder; a job knows whom it asks."""
        words = ["claude-pipeline", verb, job_id]
        words += ["--store", self.store] if self.store else []
        return shlex.join(words)


def _params(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, object]:
    params: dict[str, object] = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not (key and equals):
            raise click.BadParameter(f"{value!r} is not KEY=JSON, as in top_k=5.", ctx, param)
        if key in params:
            raise click.BadParameter(f"{key!r} is given twice.", ctx, param)
        params[key] = _json(key, text, ctx, param)
    return params


def _json(key: str, text: str, ctx: click.Context, param: click.Parameter) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        quoted = shlex.quote(f"{key}={json.dumps(text)}")
        raise click.BadParameter(
            f"the value of {key!r} is not JSON: {text}. A text needs double quotes: --param {quoted}", ctx, param
        ) from error


_Decorator = Callable[[Callable[..., None]], Callable[..., None]]

_AT_LEAST_ONE = click.IntRange(min=1)
_ASKING: list[_Decorator] = [
    click.argument("source", nargs=-1, required=True),
    click.option("--prompt-column", metavar="COLUMN", help="The column that holds the whole prompt."),
    click.option("--template", metavar="TEXT", help="A prompt with {column} where a column's value goes."),
    click.option("--template-file", metavar="PATH", help="The same, read from a file."),
    click.option("--system", metavar="TEXT", help="System prompt of every request."),
    click.option("--model", required=True, metavar="NAME", help="For example claude-haiku-4-5."),
    click.option("--max-tokens", required=True, type=_AT_LEAST_ONE, metavar="N", help="The longest answer, in tokens."),
    click.option(
        "--param",
        "params",
        multiple=True,
        callback=_params,
        metavar="KEY=JSON",
        help="Another Messages parameter; repeatable.",
    ),
    click.option("--limit", type=_AT_LEAST_ONE, metavar="N", help="Only the first N rows."),
    click.option("--name", metavar="TEXT", help="What `list` calls the job."),
    click.option("--id-column", metavar="COLUMN", help="Names rows in error messages."),
    click.option("--salt", metavar="TEXT", help="Another salt asks, and pays, afresh."),
    click.option("--prefix", default="", metavar="TEXT", help="Goes before the names of the added columns."),
    click.option("--max-attempts", default=3, type=_AT_LEAST_ONE, metavar="N", help="Per row, default 3."),
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
_STORE = click.option("--store", metavar="PATH", help="Folder of jobs and answers [default: ./.claude_pipeline].")
_BASE_URL = click.option("--base-url", metavar="URL", help="Ask another server, such as a sandbox.")
_WAITING: list[_Decorator] = [
    click.option(
        "--poll-interval",
        default=30.0,
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="Between two looks, default 30.",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0),
        metavar="SECONDS",
        help="Stop waiting then; batches run on.",
    ),
]

as_json = click.option("--json", "as_json", is_flag=True, help="Print the status as JSON on stdout.")
job_argument = click.argument("job_id", metavar="JOB")
optional_job = click.argument("job_id", metavar="[JOB]", required=False)
out = click.option("--out", required=True, metavar="PATH", help="Write here: .parquet or .csv.")


def _together(decorators: Sequence[_Decorator]) -> _Decorator:
    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


asking = _together(_ASKING)
waiting = _together(_WAITING)
place = _together([_STORE, _BASE_URL])
store = _STORE
