"""Jobs: advance what is open, wait, read the answers, cancel, resume. The public verbs after submit."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from claude_pipeline.advancing import Advance
from claude_pipeline.batches import BatchesApi, make_client
from claude_pipeline.cards import card
from claude_pipeline.display import one_line
from claude_pipeline.errors import (
    AccountError,
    ApiError,
    JobBlockedError,
    PipelineError,
    UnknownJobError,
    WaitTimeoutError,
)
from claude_pipeline.leases import new_owner
from claude_pipeline.outputs import output_batches, output_schema, write
from claude_pipeline.planning import Settings
from claude_pipeline.progress import showing
from claude_pipeline.records import OPEN_JOBS, PLANNED, JobRecord
from claude_pipeline.refusals import is_passing
from claude_pipeline.reports import report
from claude_pipeline.status import Status
from claude_pipeline.store import Store, find_store

if TYPE_CHECKING:
    import pandas as pd
    from anthropic import Anthropic

StorePath = str | os.PathLike[str] | None


@dataclass(frozen=True, slots=True)
class Session:
    """Who acts: a client, and the account that it acts for in a store."""

    api: BatchesApi
    account: int
    owner: str

    @classmethod
    def start(cls, store: Store, client: "Anthropic") -> "Session":
        """Learn the account with one free call."""
        api = BatchesApi(client)
        return cls(api, store.ledger.account(api.account()), new_owner())


class Job:
    """One table being answered. It lives in its store: another process may open and advance it as well."""

    def __init__(
        self,
        store: Store,
        job_id: str,
        *,
        base_url: str | None = None,
        client: "Anthropic | None" = None,
        session: Session | None = None,
    ) -> None:
        self.job_id = job_id
        self._store = store
        self._base_url = base_url
        self._client = client
        self._session = session
        self._notes: list[str] = []

    def __repr__(self) -> str:
        return f"<Job {one_line(self.status())}>"

    def _repr_html_(self) -> str:
        return card(self.status())

    @property
    def _record(self) -> JobRecord:
        record = self._store.ledger.job(self.job_id)
        if record is None:
            raise UnknownJobError(self.job_id, store=str(self._store.path), known=[])
        return record

    @property
    def _settings(self) -> Settings:
        return Settings.of(self._record)

    def _start_session(self) -> Session:
        if self._session is None:
            client = self._client or make_client(self._base_url or self._settings.base_url)
            self._session = Session.start(self._store, client)
        account, theirs = self._record.account, self._session.account
        if account != theirs:
            name = self._store.ledger.account_name
            raise AccountError(self.job_id, account=name(account), client_account=name(theirs))
        return self._session

    def advance(self) -> Status:
        """Do once what is due: collect what ended, ask again what may pass, send what fits the queue.

        Raises:
            ApiError: The API refuses the credentials; what is passing stands in the status' `reason` instead.
            AccountError: The job belongs to another account than the client's.
            StoreError: The store cannot be written.
        """
        return self._advance()

    def _advance(self, *, unless_polled_within: float = 0.0) -> Status:
        try:
            session = self._start_session()
            step = Advance(
                self._store,
                session.api,
                session.account,
                session.owner,
                self.job_id,
                unless_polled_within=unless_polled_within,
            )
            self._notes = step.notes
            step.run()
        except ApiError as error:
            if not is_passing(error):
                raise
            self._notes = [f"{error} Trying again."]
        return self.status()

    def wait(
        self,
        *,
        timeout: float | None = None,
        poll_interval: float = 30.0,
        on_status: Callable[[Status], None] | None = None,
    ) -> "Job":
        """Advance until the job has ended; sleep `poll_interval` seconds in between.

        However many processes wait on one store, its batches are looked at twice in that time at most.
        `on_status` is given each status. Without it a notebook shows a progress bar.

        Raises:
            WaitTimeoutError: It has not ended after `timeout` seconds; its batches run on.
            JobBlockedError: It goes on only after its user has mended something.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        polled_within = 0.0
        with showing(on_status) as show:
            while True:
                status = self._advance(unless_polled_within=polled_within)
                polled_within = poll_interval / 2
                show(status)
                if status.state == "ended":
                    return self
                if status.state == "blocked":
                    raise JobBlockedError(self.job_id, reason=status.reason or "")
                left = poll_interval if deadline is None else deadline - time.monotonic()
                if deadline is not None and left <= 0:
                    raise WaitTimeoutError(self.job_id, seconds=timeout or 0)
                time.sleep(min(poll_interval, left))

    def status(self) -> Status:
        """Say where the job stands, from the ledger alone."""
        return report(self._store, self._record, notes=self._notes)

    def to_arrow(self) -> pa.Table:
        """Return every input row, in input order, with its answer beside it.

        Before the end the rows without a result have null in `result_type`.
        """
        schema = output_schema(self._store, self._record, prefix=self._settings.prefix)
        return pa.Table.from_batches(output_batches(self._store, self._record, schema), schema)

    def to_pandas(self, **options: Any) -> "pd.DataFrame":  # noqa: ANN401  what pyarrow.Table.to_pandas takes
        """Return the same as a DataFrame."""
        frame: pd.DataFrame = self.to_arrow().to_pandas(**options)
        return frame

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the same as Parquet or CSV, by suffix, in flat memory; the file appears whole or not at all.

        Raises:
            OutputError: The suffix is unknown, or the place cannot be written.
        """
        return write(self._store, self._record, path, prefix=self._settings.prefix)

    def cancel(self) -> Status:
        """Cancel what only this job waits for. Requests already answered stay answered, and billed."""
        self._start_session()
        self._store.ledger.move_job(self.job_id, ("planning", "in_progress", "blocked"), state="canceling", reason=None)
        return self.advance()

    def resume(self) -> Status:
        """Go on after a block, or ask again the rows of an ended job that have no answer."""
        session = self._start_session()
        ledger = self._store.ledger
        for shard in ledger.shards(session.account, PLANNED, job_id=self.job_id):
            ledger.move(shard.shard, PLANNED, not_before=0.0, refusals=0, reason=None)
        if self._record.state != "ended" or self._record.unanswered:
            again = {"state": "planning", "reason": None, "unanswered": None, "ended_at": None}
            ledger.move_job(self.job_id, ("blocked", "canceling", "ended"), **again)
        return self.advance()


def open_job(
    job_id: str, *, store: StorePath = None, base_url: str | None = None, client: "Anthropic | None" = None
) -> Job:
    """Open a job of a store, tomorrow or elsewhere.

    Raises:
        UnknownJobError: There is no such job; names the nearest.
    """
    path = find_store(store)
    opened = _existing(path)
    if opened is None or opened.ledger.job(job_id) is None:
        known = [job.job_id for job in opened.ledger.jobs()] if opened else []
        raise UnknownJobError(job_id, store=str(path), known=known)
    return Job(opened, job_id, base_url=base_url, client=client)


def list_jobs(*, store: StorePath = None) -> list[Status]:
    """List a store's jobs, the one submitted last at the end."""
    opened = _existing(find_store(store))
    return [report(opened, job) for job in opened.ledger.jobs()] if opened else []


def advance(*, store: StorePath = None, base_url: str | None = None, client: "Anthropic | None" = None) -> list[Status]:
    """Advance every open job of a store that belongs to the client's account; return how they stand.

    Raises:
        ApiError: The API refuses the credentials.
    """
    return _over_open_jobs(Advance.run, store, base_url, client)


def poll(*, store: StorePath = None, base_url: str | None = None, client: "Anthropic | None" = None) -> list[Status]:
    """Ask the API how the running batches of a store stand, with list calls alone; return how its open jobs do.

    Raises:
        ApiError: The API refuses the credentials; what is passing stands in the `reason` of a status instead.
    """
    return _over_open_jobs(Advance.poll, store, base_url, client)


def _over_open_jobs(
    step: Callable[[Advance], None], store: StorePath, base_url: str | None, client: "Anthropic | None"
) -> list[Status]:
    opened = _existing(find_store(store))
    if opened is None:
        return []
    jobs = opened.ledger.jobs(OPEN_JOBS)
    places = {job.job_id: base_url or Settings.of(job).base_url for job in jobs}
    seen = {place: _Look(step, opened, place, client) for place in set(places.values())}
    if errors := [look.error for look in seen.values() if look.error]:
        raise errors[0]
    records = [opened.ledger.job(job_id) for job_id in places]
    return [report(opened, record, notes=seen[places[record.job_id]].notes_on(record)) for record in records if record]


class _Look:
    """A step taken at one place as one client's account; what fails there keeps no other place waiting."""

    def __init__(
        self, step: Callable[[Advance], None], store: Store, place: str | None, client: "Anthropic | None"
    ) -> None:
        self.error: PipelineError | None = None
        self._store = store
        self._account: int | None = None
        self._notes: list[str] = []
        try:
            self._take(step, client or make_client(place))
        except PipelineError as error:
            if isinstance(error, ApiError) and is_passing(error):
                self._notes = [f"{error} Trying again."]
            else:
                self.error = error

    def _take(self, step: Callable[[Advance], None], client: "Anthropic") -> None:
        session = Session.start(self._store, client)
        self._account = session.account
        taken = Advance(self._store, session.api, session.account, session.owner)
        self._notes = taken.notes
        step(taken)

    def notes_on(self, job: JobRecord) -> list[str]:
        """Say what could not be done for a job; of another account's, whose it is."""
        if self._account in {None, job.account}:
            return self._notes
        name = self._store.ledger.account_name
        return [str(AccountError(job.job_id, account=name(job.account), client_account=name(self._account or 0)))]


def _existing(path: Path) -> Store | None:
    return Store(path) if (path / "ledger.sqlite").exists() else None
