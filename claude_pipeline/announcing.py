"""Telling somebody that a job has come to rest: it has ended, or is blocked until its user mends something.

Each rest is told once, whoever advances the store: who is about to tell holds the job meanwhile, and it counts as told
when that went well. What was cut short or has failed is told by the next one.
"""

import json
import os
import subprocess
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from claude_pipeline.errors import PipelineError, PipelineWarning
from claude_pipeline.leases import new_owner, renewed
from claude_pipeline.logs import tell
from claude_pipeline.records import JobRecord
from claude_pipeline.reports import report
from claude_pipeline.status import Status
from claude_pipeline.store import Store

OnEnded = Callable[[Status], object] | str


class _CommandError(Exception):
    """A command did not end well."""


@contextmanager
def announcing(store: Store | None, on_ended: OnEnded | None, *, job_id: str | None = None) -> Iterator[None]:
    """Tell after the body, errors of ours or not, which jobs have come to rest: all of the store's, or this one.

    The first time that anybody wants to be told, what had come to rest before counts as told, this job aside.
    """
    if store is None or on_ended is None:
        yield
        return
    store.ledger.begin_announcing(but=job_id)
    try:
        yield
    except PipelineError:
        _announce(store, on_ended, job_id)
        raise
    _announce(store, on_ended, job_id)


def _announce(store: Store, on_ended: OnEnded, job_id: str | None) -> None:
    for job in store.ledger.unannounced():
        if job_id in {None, job.job_id} and store.ledger.lease_announcement(job, owner=(owner := new_owner())):
            _announce_one(store, on_ended, job, owner=owner)


def _announce_one(store: Store, on_ended: OnEnded, job: JobRecord, *, owner: str) -> None:
    ledger, done = store.ledger, False
    try:
        with renewed(lambda: ledger.renew_announcement(job.job_id, owner=owner)):
            _call(on_ended, report(store, job), store)
        done = True
        tell("job.announced", job_id=job.job_id, state=job.state)
    except Exception as error:  # noqa: BLE001  what the user's own code says must not harm the job
        why = str(error) if isinstance(error, _CommandError) else f"{type(error).__name__}: {error}"
        tell("job.not_announced", job_id=job.job_id, state=job.state, reason=why)
        words = f"on_ended failed for {job.job_id}, which is {job.state} ({why}). The next advance calls it again."
        warnings.warn(words, PipelineWarning, stacklevel=2)
    finally:
        ledger.end_announcement(job, owner=owner, done=done)


def _call(on_ended: OnEnded, status: Status, store: Store) -> None:
    if not isinstance(on_ended, str):
        on_ended(status)
        return
    told = {"JOB_ID": status.job_id, "STATE": status.state, "STORE": str(store.path), "LEDGER": store.ledger.url}
    ran = subprocess.run(  # noqa: S602  the user's own command, as in crontab; what it is told of is no part of it
        on_ended,
        shell=True,
        check=False,
        env=os.environ | {f"CLAUDE_PIPELINE_{name}": value for name, value in told.items()},
        input=json.dumps(status.to_dict(), ensure_ascii=False).encode(),
        stdout=2,  # stdout is for the data of whoever waits
    )
    if ran.returncode:
        raise _CommandError(
            f"exit code {ran.returncode}" if ran.returncode > 0 else f"killed by signal {-ran.returncode}"
        )
