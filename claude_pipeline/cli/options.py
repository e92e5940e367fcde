"""The options that commands share, named as the public functions name them."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import click

import claude_pipeline as cp


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job lives and whom it asks, to open it and to say how it is opened again."""

    store: str | None
    ledger: str | None
    base_url: str | None

    def open(self, job_id: str) -> "cp.Job":
        """Open the job that lives here."""
        return cp.open_job(job_id, store=self.store, ledger=self.ledger, base_url=self.base_url)

    def command(self, verb: str, job_id: str) -> str:
        """Write the command that does `verb` to the job from this very folder; a job knows whom it asks."""
        words = ["claude-pipeline", verb, job_id]
        words += ["--store", self.store] if self.store else []
        words += ["--ledger", self.ledger] if self.ledger else []
        return shlex.join(words)


Decorator = Callable[[Callable[..., None]], Callable[..., None]]

_STORE = click.option("--store", metavar="PATH", help="Folder of jobs and answers [default: ./.claude_pipeline].")
_LEDGER = click.option("--ledger", metavar="URL", help="The record of jobs [default: a file in the store].")
_BASE_URL = click.option("--base-url", metavar="URL", help="Ask another server, such as a sandbox.")
_WAITING: list[Decorator] = [
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
