"""`list` and `status`: where jobs stand, by the ledger alone."""

import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from operator import attrgetter
from typing import get_args

import click

import claude_pipeline as cp
from claude_pipeline.cli import options
from claude_pipeline.cli.live import progress
from claude_pipeline.cli.output import print_jobs, print_json, print_status
from claude_pipeline.cli.shell import say
from claude_pipeline.status import JobState, Status

_NO_JOBS = "No jobs here yet. `claude-pipeline run --help` shows how to start one."
_SPAN = re.compile(r"(\d{1,6})([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_LOOK_SECONDS = 1.0


class _Since(click.ParamType[float]):
    name = "when"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read a span until now, or a date or time of this host's zone, as seconds since the epoch."""
        if found := _SPAN.fullmatch(str(value)):
            return (datetime.now(UTC) - timedelta(**{_UNITS[found[2]]: int(found[1])})).timestamp()
        try:
            return datetime.fromisoformat(str(value)).astimezone().timestamp()
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time. Give 30m, 12h, 7d or 2026-11-28.", param, ctx)


@click.command("list", short_help="List the jobs of a store.")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(get_args(JobState)),
    metavar="STATE",
    help="Only jobs in it: planning, in_progress, canceling, blocked, ended; repeatable.",
)
@click.option("--name", metavar="NAME", help="Only jobs of it; * and ? stand for what you like.")
@click.option("--user", metavar="USER", help="Only jobs that this user submitted.")
@click.option("--since", type=_Since(), metavar="WHEN", help="Submitted since: 30m, 12h, 7d or 2026-11-28.")
@options.store
@options.as_json
def list_jobs(
    *,
    states: tuple[str, ...],
    name: str | None,
    user: str | None,
    since: float | None,
    store: str | None,
    ledger: str | None,
    as_json: bool,
) -> None:
    """List the jobs of a store, the newest first.

    \b
      claude-pipeline list --state blocked --state in_progress
      claude-pipeline list --name 'nightly*' --user ana --since 7d
    """  # noqa: D301  # click keeps the lines after a backspace as they are
    every = newest_first(store, ledger)
    wanted = [
        status
        for status in every
        if (not states or status.state in states)
        and (name is None or fnmatchcase(status.name or "", name))
        and (user is None or status.submitted_by == user)
        and (since is None or status.submitted_at >= since)
    ]
    if as_json:
        print_json(wanted)
    elif wanted:
        print_jobs(wanted)
    else:
        say(f"None of {len(every):,} jobs is such a one." if every else _NO_JOBS)


@click.command(short_help="Show where a job stands.")
@options.optional_job
@click.option("--watch", is_flag=True, help="Follow it until it has ended or is blocked; Ctrl-C leaves.")
@options.store
@options.as_json
def status(*, job_id: str | None, watch: bool, store: str | None, ledger: str | None, as_json: bool) -> None:
    """Show where JOB stands, without asking the API; the newest job when none is named.

    \b
      claude-pipeline status
      claude-pipeline status job_td7eocqpecwxdsxe --watch
    """  # noqa: D301  # click keeps the lines after a backspace as they are
    named = job_id or next((newest.job_id for newest in newest_first(store, ledger)), None)
    if named is None:
        raise click.ClickException(_NO_JOBS)
    job = cp.open_job(named, store=store, ledger=ledger)
    shown = _watched(job) if watch else job.status()
    if as_json:
        print_json(shown)
    else:
        print_status(shown)


def _watched(job: "cp.Job") -> Status:
    """Show a job that others advance, until nothing more will change by itself."""
    with progress(f"Looking at {job.job_id}") as show:
        while True:
            status = job.status()
            show(status)
            if status.state in {"ended", "blocked"}:
                return status
            time.sleep(_LOOK_SECONDS)


def newest_first(store: str | None, ledger: str | None) -> Sequence[Status]:
    """List a store's jobs, the one submitted last at the top."""
    return sorted(cp.list_jobs(store=store, ledger=ledger), key=attrgetter("submitted_at"), reverse=True)
