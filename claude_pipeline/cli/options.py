"""The options that commands share, named as the public functions name them."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import click
from click.shell_completion import CompletionItem

import claude_pipeline as cp
from claude_pipeline.errors import PipelineError
from claude_pipeline.postgres import without_password


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job lives and whom it asks, to open it and to say how it is opened again."""

    store: str | None
    ledger: str | None = field(repr=False)
    base_url: str | None

    def open(self, job_id: str) -> "cp.Job":
        """Open the job that lives here."""
        return cp.open_job(job_id, store=self.store, ledger=self.ledger, base_url=self.base_url)

    def command(self, verb: str, job_id: str) -> str:
        """Write the command that does `verb` to the job from this very folder; a job knows whom it asks."""
        words = ["claude-pipeline", verb, job_id]
        words += ["--store", self.store] if self.store else []
        words += ["--ledger", without_password(self.ledger)] if self.ledger else []
        return shlex.join(words)


Decorator = Callable[[Callable[..., None]], Callable[..., None]]

_STORE = click.option("--store", metavar="PATH", help="Folder or s3:// URL of the jobs [default: ./.claude_pipeline].")
_LEDGER = click.option("--ledger", metavar="URL", help="PostgreSQL URL [default: a file in the store].")
_BASE_URL = click.option("--base-url", metavar="URL", help="Ask another server, such as a sandbox.")
_WAITING: list[Decorator] = [
    click.option(
        "--poll-interval",
        default=30.0,
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="Longest between two looks, default 30.",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0),
        metavar="SECONDS",
        help="Stop waiting then; batches run on.",
    ),
]

on_ended = click.option(
    "--on-ended", metavar="COMMAND", help="Run it once a job ended or is blocked; has its status as JSON on stdin."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print the status as JSON on stdout.")


def job_ids(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the id of a job of the store, the newest first."""
    try:
        statuses = cp.list_jobs(store=ctx.params.get("store"), ledger=ctx.params.get("ledger"))
    except PipelineError:
        return []
    return [
        CompletionItem(status.job_id, help=f"{status.state} {status.name or ''}".strip())
        for status in reversed(statuses)
        if status.job_id.startswith(incomplete)
    ]


job_argument = click.argument("job_id", metavar="JOB", shell_complete=job_ids)
optional_job = click.argument("job_id", metavar="[JOB]", required=False, shell_complete=job_ids)
out = click.option("--out", required=True, metavar="PATH", help="Write here: .parquet or .csv, also s3://.")


def together(decorators: Sequence[Decorator]) -> Decorator:
    """Make several decorators one, the first on top."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


waiting = together(_WAITING)
store = together([_STORE, _LEDGER])
place = together([_STORE, _LEDGER, _BASE_URL])
