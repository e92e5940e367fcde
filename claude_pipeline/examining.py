"""A store by itself: its ledger against its files, and what has come to a stop. Nothing is asked, nothing changed."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

import pyarrow as pa

from claude_pipeline.display import plural, usd
from claude_pipeline.errors import StoreError
from claude_pipeline.files import reading
from claude_pipeline.findings import Finding
from claude_pipeline.leases import LEASE_SECONDS
from claude_pipeline.parquets import open_parquet
from claude_pipeline.places import Place
from claude_pipeline.records import JobRecord, Shard
from claude_pipeline.settings import Settings
from claude_pipeline.store import Store

_LEASED = ("uploading", "ended", "streaming")
_USUAL_ROW_BYTES = 2_000.0
_COPIES = 3  # a body on its way out, results on their way in, and the results that stay
_MARGIN_BYTES = 100_000_000


class Fault(NamedTuple):
    """A file of the store that cannot be used, named from there, and in words why."""

    file: str
    what: str


class Broken(NamedTuple):
    """A shard whose results cannot be used."""

    shard: Shard
    fault: Fault


def all_shards(store: Store) -> list[Shard]:
    """List the shards of every account that has jobs."""
    accounts = sorted({job.account for job in store.ledger.jobs()})
    return [shard for account in accounts for shard in store.ledger.shards(account)]


def examine(store: Store, jobs: Sequence[JobRecord], shards: Sequence[Shard], *, thorough: bool) -> Iterator[Finding]:
    """Yield what is wrong without the API, but for results, which it may still have."""
    for job in jobs:
        yield from _standing(store, job)
        if job.pruned_at is None:
            yield from _inputs(store, job, thorough=thorough)
    for shard in shards:
        yield from _stopped(store, shard)
        if shard.missing_from:
            yield _undelivered(shard)
    yield from _left_over(store, shards)
    yield from _room(store, shards)


# The ledger


def _standing(store: Store, job: JobRecord) -> Iterator[Finding]:
    if job.state == "blocked":
        way_out = f"Once that is mended: claude-pipeline resume {job.job_id}"
        yield Finding(
            "blocked_job", "ledger", "warning", f"{_named(job)} is blocked: {job.reason}", way_out, job_id=job.job_id
        )
    since = store.ledger.now() - job.submitted_at
    if job.state == "planning" and since > LEASE_SECONDS and store.ledger.is_abandoned(job):
        message, way_out = f"The planning of {_named(job)} was cut short.", "The next `advance` goes on with it."
        yield Finding("cut_short", "ledger", "warning", message, way_out, job_id=job.job_id)


def _named(job: JobRecord) -> str:
    return f"{job.job_id} ({job.name})" if job.name else job.job_id


def _stopped(store: Store, shard: Shard) -> Iterator[Finding]:
    """Look for what a process left behind that lives no more."""
    if not store.ledger.is_abandoned(shard):
        return
    if shard.state == "submitting":
        since = datetime.fromtimestamp(shard.submitting_at or 0).astimezone().strftime("%Y-%m-%d %H:%M")
        message = (
            f"Nobody knows whether {plural(shard.requests, 'request')} of {shard.job_id} became a batch: the answer to "
            f"a create call was lost at {since}."
        )
        repair = "looks for the batch at the API, as the next `advance` does"
        yield Finding("doubtful_shard", "ledger", "warning", message, repair=repair, job_id=shard.job_id)
    if shard.state in _LEASED and shard.owner is not None:
        doing = {"uploading": "sending", "ended": "collecting", "streaming": "streaming"}[shard.state]
        message = f"The process that was {doing} {plural(shard.requests, 'request')} of {shard.job_id} is gone."
        repair = "goes on where it stopped, as the next `advance` does"
        yield Finding("dead_owner", "ledger", "warning", message, None, repair, shard.job_id, shard.batch_id)


def _undelivered(shard: Shard) -> Finding:
    requests = plural(shard.requests, "request")
    message = (
        f"{requests} of {shard.job_id} got no line in the results of {shard.missing_from}, which may have billed them, "
        "and were asked again."
    )
    way_out = "Anthropic's support can look into it by the id of the batch."
    return Finding("undelivered_lines", "batches", "info", message, way_out, job_id=shard.job_id)


# Files


def _inputs(store: Store, job: JobRecord, *, thorough: bool) -> Iterator[Finding]:
    fault = fault_of(store, store.input_path(job.job_id), rows=job.rows, thorough=thorough)
    if fault:
        way_out = "Bring it back from a backup, or submit the same table again, which puts it there."
        if fault.what != "missing":
            way_out = "Bring it back from a backup, or remove it and submit the same table again."
        yield _bad_file("input", fault, f"The input of {_named(job)}", way_out, job.job_id)
    noted = job.skipped + job.invalid + job.duplicates + job.reused
    if job.state != "planning" and noted:
        fault = fault_of(store, store.foreign_path(job.job_id), rows=None, thorough=thorough)
        if fault:
            way_out = (
                "Bring it back from a backup, or submit the table again with another name=: "
                "what is answered costs nothing."
            )
            what = f"The list of {plural(noted, 'row')} of {_named(job)} that are answered elsewhere or not sent"
            yield _bad_file("foreign", fault, what, way_out, job.job_id)


def _bad_file(kind: str, fault: Fault, what: str, way_out: str, job_id: str) -> Finding:
    word = "missing" if fault.what == "missing" else "damaged"
    return Finding(f"{word}_{kind}", "files", "error", f"{what} is {fault.what}: {fault.file}.", way_out, job_id=job_id)


def fault_of(store: Store, path: Place, *, rows: int | None, thorough: bool) -> Fault | None:
    """Say what is wrong with a Parquet file of the store, if anything is; `thorough` reads it to its end."""
    file_name = str(path).removeprefix(f"{store.path}/")
    try:
        with reading(path), open_parquet(path) as file:
            found = file.metadata.num_rows
            if rows is not None and found != rows:
                return Fault(file_name, f"not whole ({plural(found, 'row')} of {rows:,})")
            for _ in file.iter_batches() if thorough else ():
                pass
    except StoreError:
        return Fault(file_name, "damaged" if path.exists() else "missing")
    return None


def broken_results(store: Store, shards: Sequence[Shard], *, thorough: bool) -> Iterator[Broken]:
    """Yield the collected shards whose results are missing or damaged."""
    for shard in shards:
        if not shard.has_results:
            continue
        fault = fault_of(store, store.results_path(shard.results_id), rows=shard.requests, thorough=thorough)
        if fault:
            yield Broken(shard, fault)


def lost(broken: Broken, *, way_out: str | None, repair: str | None, more: str = "") -> Finding:
    """Tell of results that cannot be used, and whether they can come back."""
    shard, fault = broken
    word = "missing" if fault.what == "missing" else "damaged"
    cost = f", which cost {usd(shard.cost_usd)}," if shard.cost_usd else ""
    message = (
        f"The file with {plural(shard.succeeded, 'answer')} of {shard.job_id}{cost} is {fault.what}: {fault.file}."
    )
    message = f"{message} {more}".rstrip()
    return Finding(f"{word}_results", "files", "error", message, way_out, repair, shard.job_id, shard.batch_id)


def _left_over(store: Store, shards: Sequence[Shard]) -> Iterator[Finding]:
    if left := store.left_behind():
        message = f"Killed processes left {plural(len(left), 'temporary file')} behind."
        yield Finding("left_behind", "files", "info", message, repair="removes them")
    strays = store.results_ids() - {shard.results_id for shard in shards}
    if strays:
        some = ", ".join(sorted(strays)[:3]) + (", …" if len(strays) > 3 else "")  # noqa: PLR2004  as many as are named
        message = (
            f"{plural(len(strays), 'results file')} belong to no batch of the ledger ({some}), as when a store was "
            "copied in part."
        )
        way_out = "`recover` reads batches of the last 29 days in again."
        yield Finding("stray_results", "files", "info", message, way_out)


# Room


def _room(store: Store, shards: Sequence[Shard]) -> Iterator[Finding]:
    needed, free = _bytes_needed(store, shards), store.free_bytes()
    if needed > free:
        message = f"The disk of {store.path} has {_size(free)} left, and what is being asked may take {_size(needed)}."
        way_out = "Free some room: a full disk loses nothing, but results are collected only once there is some."
        yield Finding("little_disk", "disk", "warning", message, way_out)


def _bytes_needed(store: Store, shards: Sequence[Shard]) -> int:
    requests = sum(shard.requests for shard in shards if shard.state != "collected")
    if not requests:
        return _MARGIN_BYTES
    known = [shard for shard in shards if shard.state == "collected" and shard.results_id][-10:]
    size = 0
    for shard in known:
        with (
            suppress(StoreError, pa.ArrowException, OSError),
            open_parquet(store.results_path(shard.results_id)) as file,
        ):
            groups = range(file.metadata.num_row_groups)
            size += sum(file.metadata.row_group(group).total_byte_size for group in groups)
    rows = sum(shard.requests for shard in known)
    return int(requests * max(_USUAL_ROW_BYTES, size / rows if rows else 0) * _COPIES) + _MARGIN_BYTES


def _size(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.0f} MB"  # noqa: PLR2004  a gigabyte


def places_of(jobs: Sequence[JobRecord]) -> list[str | None]:
    """List where the API is for what is open, or else for the job that came last."""
    asking = [job for job in jobs if Settings.of(job).mode != "recovered"] or jobs
    is_open = [job for job in asking if job.state not in {"ended", "blocked"}] or asking[-1:]
    return sorted({Settings.of(job).base_url for job in is_open}, key=str) or [None]
