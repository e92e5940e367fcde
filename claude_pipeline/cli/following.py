"""The commands about jobs that exist: look, wait, push on, write, stop, go on."""

from collections.abc import Callable
from operator import attrgetter

import click

import claude_pipeline as cp
from claude_pipeline import display
from claude_pipeline.cli import options
from claude_pipeline.cli.options import Place
from claude_pipeline.cli.output import print_jobs, print_json, print_status
from claude_pipeline.cli.shell import leave, say
from claude_pipeline.cli.waiting import next_step, report, wait_for, written
from claude_pipeline.status import Status

_NO_JOBS = "No jobs here yet. `claude-pipeline run --help` shows how to start one."


@click.command("list", short_help="List the jobs of a store.")
@options.store
@options.as_json
def list_jobs(*, store: str | None, ledger: str | None, as_json: bool) -> None:
    """List the jobs of a store, the newest first."""
    statuses = _newest_first(store, ledger)
    if as_json:
        print_json(statuses)
    elif statuses:
        print_jobs(statuses)
    else:
        say(_NO_JOBS)


@click.command(short_help="Show where a job stands.")
@options.optional_job
@options.store
@options.as_json
def status(*, job_id: str | None, store: str | None, ledger: str | None, as_json: bool) -> None:
    """Show where JOB stands, without asking the API; the newest job when none is named."""
    shown = [cp.open_job(job_id, store=store, ledger=ledger).status()] if job_id else _newest_first(store, ledger)[:1]
    if not shown:
        raise click.ClickException(_NO_JOBS)
    if as_json:
        print_json(shown[0])
    else:
        print_status(shown[0])


@click.command(short_help="Wait until a job has ended.")
@options.job_argument
@options.waiting
@options.place
@options.as_json
def wait(
    *,
    job_id: str,
    poll_interval: float,
    timeout: float | None,
    store: str | None,
    ledger: str | None,
    base_url: str | None,
    as_json: bool,
) -> None:
    """Wait until JOB has ended, and push it on meanwhile. Ctrl-C leaves its batches running."""
    place = Place(store, ledger, base_url)
    ended = wait_for(place.open(job_id), place, timeout=timeout, poll_interval=poll_interval)
    report(ended, place, as_json=as_json)


@click.command(short_help="Do what is to be done now, once; for cron.")
@options.optional_job
@options.place
@options.as_json
def advance(*, job_id: str | None, store: str | None, ledger: str | None, base_url: str | None, as_json: bool) -> None:
    """Do once what JOB needs now, or every open job: collect what ended, send what is due.

    \b
    Instead of waiting, from cron:
      */5 * * * *  cd /data && claude-pipeline advance
    """  # noqa: D301  # click keeps the lines after a backspace as they are
    place = Place(store, ledger, base_url)
    moved = [place.open(job_id).advance()] if job_id else cp.advance(store=store, ledger=ledger, base_url=base_url)
    if as_json:
        print_json(moved[0] if job_id else moved)
        return
    for one in moved:
        click.echo(display.full_line(one))
    if not moved:
        say("No job is open; there is nothing to do.")


@click.command(short_help="Write a job's rows with their answers.")
@options.job_argument
@options.out
@options.place
@options.as_json
def write(*, job_id: str, out: str, store: str | None, ledger: str | None, base_url: str | None, as_json: bool) -> None:
    """Write the rows of JOB with their answers to a .parquet or .csv file.

    Before the job has ended, rows without an answer have an empty result_type,
    and the exit code is 4.
    """
    place = Place(store, ledger, base_url)
    job = place.open(job_id)
    written(job, out)
    report(job.status(), place, as_json=as_json)


@click.command(short_help="Stop a job; what was answered is kept.")
@options.job_argument
@options.place
@options.as_json
def cancel(*, job_id: str, store: str | None, ledger: str | None, base_url: str | None, as_json: bool) -> None:
    """Cancel JOB and its running batches; what was answered until then is kept and collected."""
    _change(Place(store, ledger, base_url), job_id, cp.Job.cancel, as_json=as_json)


@click.command(short_help="Go on with a job that was canceled or is blocked.")
@options.job_argument
@options.place
@options.as_json
def resume(*, job_id: str, store: str | None, ledger: str | None, base_url: str | None, as_json: bool) -> None:
    """Go on with JOB after it was canceled, or once what blocked it is mended."""
    _change(Place(store, ledger, base_url), job_id, cp.Job.resume, as_json=as_json)


def _change(place: Place, job_id: str, change: Callable[["cp.Job"], Status], *, as_json: bool) -> None:
    after = change(place.open(job_id))
    if as_json:
        print_json(after)
    say(next_step(after, place))
    if after.state == "blocked":
        leave(after)


def _newest_first(store: str | None, ledger: str | None) -> list[Status]:
    return sorted(cp.list_jobs(store=store, ledger=ledger), key=attrgetter("submitted_at"), reverse=True)


class _Dollars(click.ParamType[float | None]):
    name = "usd"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        """Read an amount; `none` is no limit."""
        try:
            return None if value == "none" else float(str(value))
        except ValueError:
            self.fail(f"{value!r} is neither dollars nor 'none'.", param, ctx)


@click.command(short_help="Limit what a store may cost.")
@click.argument("max_cost_usd", metavar="USD|none", type=_Dollars())
@options.store
def budget(*, max_cost_usd: float | None, store: str | None, ledger: str | None) -> None:
    """Limit what a store may cost each account in dollars, or lift the limit.

    The most that a batch can cost is reserved before it is sent, so the limit
    holds. `submit --max-cost-usd` limits a single job.

    \b
      claude-pipeline budget 50
      claude-pipeline budget none
    """  # noqa: D301  # click keeps the lines after a backspace as they are
    cp.set_budget(max_cost_usd, store=store, ledger=ledger)
