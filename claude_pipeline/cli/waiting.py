"""Waiting for a job, and saying what came of it."""

from typing import TYPE_CHECKING

from claude_pipeline import display
from claude_pipeline.cli.live import progress
from claude_pipeline.cli.options import Place
from claude_pipeline.cli.output import print_json
from claude_pipeline.cli.shell import leave, say, stop
from claude_pipeline.errors import JobBlockedError, WaitTimeoutError
from claude_pipeline.status import Status

if TYPE_CHECKING:
    import claude_pipeline as cp


def wait_for(job: "cp.Job", place: Place, *, timeout: float | None, poll_interval: float) -> Status:
    """Show progress until the job ends, is blocked, or the time is up; return where it stands then."""
    try:
        with progress(f"Waiting for {job.job_id}") as show:
            job.wait(timeout=timeout, poll_interval=poll_interval, on_status=show)
    except WaitTimeoutError:
        say(f"{job.job_id} has not ended after {timeout:g} seconds.")
    except JobBlockedError:
        pass  # its status tells more
    except KeyboardInterrupt as interruption:
        say(f"Stopped waiting. {_runs_on(job.job_id, place)}")
        stop(interruption)
    return job.status()


def report(status: Status, place: Place, *, as_json: bool) -> None:
    """Say what came of a job and what to do next, and leave with the exit code that tells it."""
    if as_json:
        print_json(status)
    if status.state == "ended":
        say(display.summary(status))
    if status.unanswered:
        say("The columns error_type and error_message say why, row by row.")
        say(_once_more(status, place))
    if status.state != "ended":
        say(next_step(status, place))
    leave(status)


def _once_more(status: Status, place: Place) -> str:
    """Say how rows get an answer after all: what was not sent has to be mended first."""
    lines = []
    if sent := (status.unanswered or 0) - status.invalid:
        lines.append(f"Ask {display.plural(sent, 'row')} again: {place.command('resume', status.job_id)}")
    if unsent := status.invalid:
        which = f"{display.plural(unsent, 'row')} that could not be sent"
        lines.append(f"Mend {which} and submit the table again; what is answered is not paid for again.")
    return "\n".join(lines)


def written(job: "cp.Job", out: str) -> None:
    """Write the job's rows and say where they are."""
    job.write(out)
    say(f"Wrote {display.plural(job.status().rows, 'row')} to {out}")


def next_step(status: Status, place: Place) -> str:
    """Say what a job needs now, as a command to copy."""
    job_id = status.job_id
    match status.state:
        case "ended":
            return f"{display.one_line(status)}\nWrite the answers: {place.command('write', job_id)} --out PATH"
        case "blocked":
            return f"{job_id} is blocked: {status.reason}\nOnce mended: {place.command('resume', job_id)}"
        case "canceling":
            return f"{display.full_line(status)}\nSee it end: {place.command('wait', job_id)}"
        case "planning" | "in_progress":
            return f"{display.full_line(status)}\n{_runs_on(job_id, place)}"


def _runs_on(job_id: str, place: Place) -> str:
    return (
        f"Batches that were sent run on.\n"
        f"  Pick up: {place.command('wait', job_id)}\n"
        f"  Cancel:  {place.command('cancel', job_id)}"
    )
