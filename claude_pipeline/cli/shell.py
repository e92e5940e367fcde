"""What every command shares: the order of help, errors as one line, exit codes."""

import atexit
import gc
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import click

import claude_pipeline as cp
from claude_pipeline.errors import PipelineError, PipelineWarning
from claude_pipeline.logs import shown, tell
from claude_pipeline.status import Status

OK, UNANSWERED, NOT_ENDED, INTERRUPTED, TERMINATED = 0, 3, 4, 130, 143


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived; it stops what Ctrl-C would stop."""


class Shell(click.Group):
    """A group that lists its commands as given and shows our errors without a traceback."""

    def __init__(self, *, commands: Sequence[click.Command], **settings: Any) -> None:  # noqa: ANN401  # click's own
        settings["context_settings"] = {"help_option_names": ["-h", "--help"]}
        super().__init__(commands=commands, callback=_take_log_options, **settings)
        for option in (_log, _log_level, click.version_option(cp.__version__, prog_name="claude-pipeline")):
            option(self)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """Keep the order that a newcomer needs them in."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; an error of ours is one line and exit code 1."""
        try:
            atexit.register(gc.freeze)  # what is left then need not be looked through, which would take 0.6 s
            with _terminable(), _logging(ctx), _warning():
                return super().invoke(ctx)
        except PipelineError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt as interruption:
            say("Interrupted.")
            stop(interruption)


_log = click.option(
    "--log",
    type=click.Choice(["text", "json"]),
    envvar="CLAUDE_PIPELINE_LOG",
    help="Log to stderr what is done, instead of progress.",
)
_log_level = click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning"]),
    default="info",
    envvar="CLAUDE_PIPELINE_LOG_LEVEL",
    help="From which level on, default info.",
)


def _take_log_options(**_options: object) -> None:
    """Let `Shell.invoke` read them."""


def log_format() -> str | None:
    """Return how this command logs to stderr, `text` or `json`, if it does."""
    context = click.get_current_context(silent=True)
    found: str | None = context.find_root().params.get("log") if context else None
    return found


def say(words: str) -> None:
    """Tell the user something, on stderr; as an event where stderr is a log of JSON."""
    if log_format() == "json":
        tell("shell.said", words=words)
    else:
        click.echo(words, err=True)


def confirm(question: str, *, yes: bool) -> None:
    """Go on if somebody says so, or has said so with --yes."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"Nobody is there to answer: {question} Pass --yes to go on without.")
    click.confirm(question, abort=True, err=True)


def stop(interruption: KeyboardInterrupt) -> NoReturn:
    """Leave with the exit code of the signal that interrupted."""
    raise click.exceptions.Exit(TERMINATED if isinstance(interruption, Terminated) else INTERRUPTED)


def leave(status: Status) -> None:
    """Leave with the exit code that tells what became of the job, unless all is well."""
    if code := exit_code(status):
        raise click.exceptions.Exit(code)


def exit_code(status: Status) -> int:
    """Return 0 when every row is answered, 3 when the job ended without, 4 when it has not ended."""
    if status.state != "ended":
        return NOT_ENDED
    return UNANSWERED if status.unanswered else OK


@contextmanager
def _logging(ctx: click.Context) -> Iterator[None]:
    """Log as the options say. In a log of JSON an error is an event as well."""
    as_json = ctx.params["log"] == "json"
    if ctx.params["log"] is None:
        yield
        return
    with shown(level=ctx.params["log_level"], as_json=as_json):
        try:
            yield
        except (click.ClickException, PipelineError) as error:
            if not as_json:
                raise
            words = error.format_message() if isinstance(error, click.ClickException) else str(error)
            tell("shell.failed", words=words)
            raise click.exceptions.Exit(getattr(error, "exit_code", 1)) from error


@contextmanager
def _warning() -> Iterator[None]:
    """Say our warnings in a line, without the place in our code that they come from."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", PipelineWarning)
        show = warnings.showwarning

        def say_ours(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:  # noqa: ANN401
            if issubclass(category, PipelineWarning):
                say(f"Warning: {message}")
            else:
                show(message, category, *where, **more)

        warnings.showwarning = say_ours
        yield


@contextmanager
def _terminable() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _terminate(*_: object) -> NoReturn:
    raise Terminated
