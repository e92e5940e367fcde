"""Jobs: advance what is open, wait, read the answers, ask again, cancel, resume. The public verbs after submit."""

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from claude_pipeline.advancing import Advance
from claude_pipeline.announcing import OnEnded, announcing
from claude_pipeline.cards import card
from claude_pipeline.choosing import Rows, choose
from claude_pipeline.display import day, one_line
from claude_pipeline.errors import (
    AccountError,
    ApiError,
    InputError,
    JobBlockedError,
    PipelineError,
    StoreError,
    UnknownJobError,
    WaitTimeoutError,
)
from claude_pipeline.failures import Picked, Which, labels, pick
from claude_pipeline.frames import arrow_to_frame
from claude_pipeline.logs import tell
from claude_pipeline.outputs import output_batches, output_schema, write
from claude_pipeline.pages import write_page
from claude_pipeline.places import Place
from claude_pipeline.progress import shown_live, this_cell
from claude_pipeline.records import PLANNED, JobRecord
from claude_pipeline.refusals import is_passing
from claude_pipeline.reports import Note, report
from claude_pipeline.restoring import restore
from claude_pipeline.rounds import advance, poll
from claude_pipeline.sessions import Session, StorePath, existing_store
from claude_pipeline.settings import Settings
from claude_pipeline.status import JobState, Status
from claude_pipeline.store import Store, find_store
from claude_pipeline.traces import span
from claude_pipeline.transport import make_client

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    from anthropic import Anthropic

    from claude_pipeline.again import Again
    from claude_pipeline.estimates import Estimate

__all__ = ["Job", "Session", "StorePath", "advance", "list_jobs", "open_job", "poll"]

_FIRST_PAUSE_SECONDS = 1.0


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
        self._notes: list[Note] = []
        self._shown_in: int | None = None

    def __repr__(self) -> str:
        return f"<Job {one_line(self.status())}>"

    def _repr_html_(self) -> str | None:
        # Under a cell that has waited stands its card already.
        if self._shown_in is not None and self._shown_in == this_cell():
            return None
        return card(self.status(), now=time.time())

    @property
    def _record(self) -> JobRecord:
        record = self._store.ledger.job(self.job_id)
        if record is None:
            raise UnknownJobError(self.job_id, store=str(self._store.path), known=[])
        return record

    @property
    def kept_record(self) -> JobRecord:
        """What the ledger says of it, as long as the store has its input and answers.

        Raises:
            StoreError: They were pruned.
        """
        record = self._record
        if record.pruned_at is not None:
            raise StoreError(
                f"{self.job_id} has no answers any more: they were pruned on {day(record.pruned_at)}. "
                "Submit the same table again to have it answered anew, and paid for again."
            )
        return record

    @property
    def _settings(self) -> Settings:
        return Settings.of(self._record)

    @property
    def asked_columns(self) -> frozenset[str]:
        """Name the columns of the input that its requests are made of."""
        return frozenset(self._settings.form.columns)

    def _start_session(self) -> Session:
        if self._session is None:
            self._client = self._client or make_client(self._base_url or self._settings.base_url)
            self._session = Session.start(self._store, self._client)
        account, theirs = self._record.account, self._session.account
        if account != theirs:
            name = self._store.ledger.account_name
            raise AccountError(self.job_id, account=name(account), client_account=name(theirs))
        return self._session

    def parts(self) -> tuple[Store, Session, "Anthropic"]:
        """Return its store and session, and the client that it asks with, for whoever asks in its name."""
        session, client = self._start_session(), self._client
        assert client is not None  # noqa: S101 - a session has one
        return self._store, session, client

    def announcing(self, on_ended: OnEnded | None) -> AbstractContextManager[None]:
        """Tell after a `with` block that the job has ended or is blocked, unless somebody has been told.

        Args:
            on_ended: A function, which is given the status, or a shell command, which has it as JSON on its stdin and
                `CLAUDE_PIPELINE_JOB_ID`, `_STATE`, `_STORE` and `_LEDGER` in its environment. One that fails is called
                again by the next advance that has one.
        """
        return announcing(self._store, on_ended, job_id=self.job_id)

    def advance(self, *, on_ended: OnEnded | None = None) -> Status:
        """Do once what is due: collect what ended, ask again what may pass, send what fits the queue.

        `on_ended` is told if the job has ended or is blocked; see `announcing`.

        Raises:
            ApiError: The API refuses the credentials; what is passing stands in the status' `reason` instead.
            AccountError: The job belongs to another account than the client's.
            StoreError: The store cannot be written.
        """
        with self.announcing(on_ended):
            return self._advance()

    def _advance(self, *, unless_polled_within: float = 0.0) -> Status:
        try:
            with span("advance", job_id=self.job_id):
                self._step(unless_polled_within)
        except ApiError as error:
            if not is_passing(error):
                raise
            self._notes = [Note(f"{error} Trying again.")]
            tell("job.put_off", job_id=self.job_id, reason=self._notes[0].words)
        return self.status()

    def _step(self, unless_polled_within: float) -> None:
        session = self._start_session()
        asked = (self._store, session.api, session.account, session.owner, self.job_id)
        step = Advance(*asked, unless_polled_within=unless_polled_within)
        self._notes = step.notes
        step.run()

    def wait(
        self,
        *,
        timeout: float | None = None,
        poll_interval: float = 30.0,
        on_status: Callable[[Status], None] | None = None,
        on_ended: OnEnded | None = None,
    ) -> "Job":
        """Advance until the job has ended; sleep in between, 1, 2, 4 … seconds, and `poll_interval` seconds at most.

        A new batch begins that anew, so that a small one is collected soon. However many processes wait on one store,
        its batches are looked at twice in the shortest of their pauses at most, besides the first look of each.
        `on_status` is given each status. Without it a notebook shows the job's card and keeps it up to date; scripts
        and shells stay silent. `on_ended` is told when the job has ended or is blocked; see `announcing`.

        Raises:
            WaitTimeoutError: It has not ended after `timeout` seconds; its batches run on.
            JobBlockedError: It goes on only after its user has mended something.
        """
        with self.announcing(on_ended):
            return self._wait(timeout, poll_interval, on_status)

    def _wait(self, timeout: float | None, poll_interval: float, on_status: Callable[[Status], None] | None) -> "Job":
        deadline = None if timeout is None else time.monotonic() + timeout
        pause, known = 0.0, -1
        show = on_status or self._live()
        while True:
            status = self._advance(unless_polled_within=pause / 2)
            if show:
                show(status)
            if status.state == "ended":
                return self
            if status.state == "blocked":
                raise JobBlockedError(self.job_id, reason=status.reason or "")
            pause = min(poll_interval, 2 * pause if len(status.batches) == known else _FIRST_PAUSE_SECONDS)
            known = len(status.batches)
            left = pause if deadline is None else deadline - time.monotonic()
            if deadline is not None and left <= 0:
                raise WaitTimeoutError(self.job_id, seconds=timeout or 0)
            time.sleep(min(pause, left))

    def _live(self) -> Callable[[Status], None] | None:
        self._shown_in = this_cell()
        return None if self._shown_in is None else shown_live()

    def status(self) -> Status:
        """Say where the job stands, from the ledger alone."""
        return report(self._store, self._record, notes=self._notes)

    def to_arrow(self) -> pa.Table:
        """Return every input row, in input order, with its answer beside it.

        Before the end the rows without a result have null in `result_type`.
        """
        record = self.kept_record
        schema = output_schema(self._store, record)
        return restore(pa.Table.from_batches(output_batches(self._store, record, schema), schema))

    def to_pandas(self, **options: Any) -> "pd.DataFrame":  # noqa: ANN401  what pyarrow.Table.to_pandas takes
        """Return the same as a DataFrame; what was submitted as one has its dtypes and its index again."""
        return arrow_to_frame(self.to_arrow(), **options)

    def to_polars(self) -> "pl.DataFrame":
        """Return the same as a Polars DataFrame; what was submitted as one has its dtypes again.

        Raises:
            PipelineError: Polars is not installed.
        """
        try:
            import polars as pl  # noqa: PLC0415  whoever wants it has it
        except ImportError as error:
            raise PipelineError("to_polars needs Polars, which is not installed: pip install polars") from error
        return pl.DataFrame(self.to_arrow())

    def write(self, path: str | os.PathLike[str]) -> Place:
        """Write the same as Parquet or CSV, by suffix, in flat memory; it appears whole or not at all.

        A path that ends with a slash, or a folder, becomes a folder of Parquet files of at most 1,000,000 rows and
        about 256 MB each. A URL on S3 or GCS will do as well; the parts of a folder appear there one by one, and an
        object `_SUCCESS` last.

        Raises:
            OutputError: The suffix is unknown, or the place cannot be written.
        """
        return write(self._store, self.kept_record, path)

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write one HTML page about the job, as far as it is known by now: rows, tokens, time, cost, errors.

        The page needs neither scripts nor the network, and holds none of the prompts and answers.

        Raises:
            OutputError: There is no such folder, or the path is one.
            PipelineError: matplotlib is missing, which the extra `plot` brings.
        """
        return write_page(self._store, self.kept_record, self.status(), path)

    def failed(self) -> "pd.DataFrame":
        """Return the rows without an answer: their columns and errors, labeled as in `to_pandas`.

        Rows with a blank prompt are not among them; before the end, nor are those that may still be answered.
        """
        record = self.kept_record
        picked = pick(self._store, record, "failed")
        frame = arrow_to_frame(restore(picked.table))
        return frame.set_axis(labels(self._store, record)[picked.positions], axis="index")

    def pick(self, which: Which) -> Picked:
        """Return the "failed" rows, or those whose answer was "truncated" at `max_tokens`, without pandas."""
        return pick(self._store, self.kept_record, which)

    def estimate_again(self, rows: Rows, *, salt: str | None = None, exact: int | None = None) -> "Estimate":
        """Estimate what `ask_again` of the same rows would cost; it sends nothing.

        Raises:
            InputError: There are no such rows.
        """
        return self._again(rows, salt=salt).estimate(exact=exact, base_url=self._base_url, client=self._client)

    def ask_again(
        self,
        rows: Rows,
        *,
        max_cost_usd: float | None = None,
        salt: str | None = None,
        name: str | None = None,
        preflight: bool = True,
    ) -> "Job":
        """Ask chosen rows afresh, in a job of their own, and pay for them again; this job keeps its answers.

        The same rows of the same job are the same new job, which is not paid for twice. To have only the rows
        without an answer asked again in place, `resume`.

        Args:
            rows: Positions in the input, from 0; truth values for all rows; or a DataFrame or its index, as `failed`
                returns it, or a filter of `to_pandas`. The new job has them in the order of the input.
            max_cost_usd: Dollars that the new job may cost; see `estimate_again`.
            salt: Any text; another one asks the same rows once more.
            name: What to call the new job in lists.
            preflight: Show the first request to the free `count_tokens` endpoint before anything is sent.

        Raises:
            InputError: There are no such rows, or they are expected to cost more.
            AccountError: The job belongs to another account than the client's.
        """
        again = self._again(rows, salt=salt, max_cost_usd=max_cost_usd)
        _, session, client = self.parts()
        job_id = again.start(session, client, name=name, preflight=preflight)
        job = Job(self._store, job_id, base_url=self._base_url, client=client, session=session)
        job.advance()
        return job

    def _again(self, rows: Rows, *, salt: str | None, max_cost_usd: float | None = None) -> "Again":
        from claude_pipeline.again import Again  # noqa: PLC0415 - what estimates is loaded by those who need it

        record = self.kept_record
        chosen = choose(rows, count=record.rows, index=lambda: labels(self._store, record))
        return Again.of(self._store, record, chosen, salt=salt, max_cost_usd=max_cost_usd)

    def cancel(self) -> Status:
        """Cancel what only this job waits for. Requests already answered stay answered, and billed."""
        self._start_session()
        states: tuple[JobState, ...] = ("planning", "in_progress", "blocked")
        if self._store.ledger.move_job(self.job_id, states, state="canceling", reason=None):
            tell("job.canceling", job_id=self.job_id)
        return self.advance()

    def resume(self) -> Status:
        """Go on after a block, or ask again the rows of an ended job that have no answer, or were to be asked again."""
        if self._settings.mode == "stream":
            raise InputError(f"{self.job_id} was streamed. Stream or submit the same again to ask what has no answer.")
        self._settings.check_known(self.job_id)
        session = self._start_session()
        ledger = self._store.ledger
        for shard in ledger.shards(session.account, PLANNED, job_id=self.job_id):
            ledger.move(shard.shard, PLANNED, not_before=0.0, refusals=0, reason=None)
        with ledger.transaction():
            record = self.kept_record
            if record.state != "ended" or record.unanswered or Settings.of(record).retries:
                states: tuple[JobState, ...] = ("blocked", "canceling", "ended")
                # Without an owner, for who was planning a later asking when the job was canceled would go on with that.
                forgotten = dict.fromkeys(("owner", "reason", "unanswered", "ended_at"))
                if ledger.move_job(self.job_id, states, state="planning", asking=0, **forgotten):
                    tell("job.resumed", job_id=self.job_id)
        return self.advance()


def open_job(
    job_id: str,
    *,
    store: StorePath = None,
    ledger: str | None = None,
    base_url: str | None = None,
    client: "Anthropic | None" = None,
) -> Job:
    """Open a job of a store, tomorrow or elsewhere.

    Raises:
        UnknownJobError: There is no such job; names the nearest.
    """
    path = find_store(store)
    opened = existing_store(path, ledger)
    if opened is None or opened.ledger.job(job_id) is None:
        known = [job.job_id for job in opened.ledger.jobs()] if opened else []
        raise UnknownJobError(job_id, store=str(path), known=known)
    return Job(opened, job_id, base_url=base_url, client=client)


def list_jobs(*, store: StorePath = None, ledger: str | None = None) -> list[Status]:
    """List a store's jobs, the one submitted last at the end."""
    opened = existing_store(find_store(store), ledger)
    return [report(opened, job) for job in opened.ledger.jobs()] if opened else []
