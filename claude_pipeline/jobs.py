"""Jobs: submit a table, advance what is open, read the answers. The public verbs."""

import os
import time
from base64 import b32encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa

from claude_pipeline.advancing import Advance
from claude_pipeline.batches import BatchesApi, make_client
from claude_pipeline.display import one_line
from claude_pipeline.errors import (
    AccountError,
    InputError,
    JobBlockedError,
    MissingColumnError,
    UnknownJobError,
    WaitTimeoutError,
)
from claude_pipeline.leases import new_owner
from claude_pipeline.outputs import check_columns, output_batches, output_schema, write
from claude_pipeline.planning import Settings
from claude_pipeline.prompts import Template, build_form
from claude_pipeline.records import OPEN_JOBS, PLANNED, JobRecord
from claude_pipeline.reports import report
from claude_pipeline.shards import MAX_BYTES, MAX_REQUESTS
from claude_pipeline.sources import Snapshot, Source, snapshot
from claude_pipeline.status import Status
from claude_pipeline.store import Store, find_store

if TYPE_CHECKING:
    import pandas as pd
    from anthropic import Anthropic

StorePath = str | os.PathLike[str] | None


@dataclass(frozen=True, slots=True)
class _Session:
    """Who acts: a client, and the account that it acts for in a store."""

    api: BatchesApi
    account: int
    owner: str

    @classmethod
    def start(cls, store: Store, client: "Anthropic") -> "_Session":
        api = BatchesApi(client)
        return cls(api, store.ledger.account(api.account()), new_owner())


def submit(
    source: Source,
    *,
    prompt_column: str | None = None,
    template: str | None = None,
    template_file: str | os.PathLike[str] | None = None,
    model: str,
    max_tokens: int,
    system: str | None = None,
    params: Mapping[str, object] | None = None,
    id_column: str | None = None,
    salt: str | None = None,
    name: str | None = None,
    store: StorePath = None,
    base_url: str | None = None,
    client: "Anthropic | None" = None,
    prefix: str = "",
    limit: int | None = None,
    max_batch_requests: int = MAX_REQUESTS,
    max_batch_bytes: int = MAX_BYTES,
    max_queued_requests: int = 200_000,
    max_attempts: int = 3,
) -> "Job":
    """Ask every row of a table, as Message Batches, and return the job; it plans and advances once.

    The same submit is the same job: running, finished or killed. Requests that the store has answers for, or has
    asked already, are not asked again.

    Args:
        source: A path, glob or list of Parquet or CSV files of one schema, a pandas DataFrame, a pyarrow Table, or
            anything with the Arrow PyCapsule interface (Polars, DuckDB).
        prompt_column: The text column that is the prompt.
        template: Text with column names in braces, instead of `prompt_column`.
        template_file: A UTF-8 file with such a template; one newline at its end is not part of it.
        model: A model's id, such as `claude-haiku-4-5`.
        max_tokens: The longest answer, in tokens.
        system: The system prompt.
        params: Any other parameter of the Messages API, by name.
        id_column: A column that names rows in messages.
        salt: Any text; another one asks the same requests afresh.
        name: What to call the job in lists.
        store: The folder of ledger, inputs and results; else CLAUDE_PIPELINE_STORE, else the nearest
            `.claude_pipeline` upwards, else a new one here.
        base_url: Where the API is, if not where the SDK looks.
        client: An `anthropic.Anthropic` to use.
        prefix: Put before the names of the columns that are added.
        limit: Ask only the first so many rows.
        max_batch_requests: Requests in a batch, at most 100,000.
        max_batch_bytes: Bytes of a batch, at most 256,000,000.
        max_queued_requests: Requests of the account that may be processed at once; the rest goes in waves.
        max_attempts: How often a request that may pass is sent.

    Raises:
        InputError: The table, the template or a parameter cannot become requests.
        CredentialsError: There is no API key.
        ApiError: The API refuses the credentials.
        StoreError: The store cannot be written.
    """
    _check_batch_limits(max_batch_requests, max_batch_bytes, max_queued_requests, max_attempts)
    text = _one_template(prompt_column, template, template_file)
    client = client or make_client(base_url)
    opened = Store(find_store(store))
    taken = snapshot(source, opened.new_input_path(), limit=limit)
    try:
        settings = Settings(
            label=taken.label,
            form=build_form(
                _parse(taken, prompt_column, text),
                model=model,
                max_tokens=max_tokens,
                system=system,
                params=params,
                salt=salt,
            ),
            model=model,
            max_tokens=max_tokens,
            id_column=_check_id_column(taken, id_column),
            prefix=prefix,
            base_url=base_url,
            max_batch_requests=max_batch_requests,
            max_batch_bytes=max_batch_bytes,
            max_queued_requests=max_queued_requests,
            max_attempts=max_attempts,
        )
        check_columns(taken.schema, prefix=prefix, source=taken.label)
        session = _Session.start(opened, client)
        job_id = _job_id(opened.ledger.account_name(session.account), name, taken.digest, settings)
        opened.keep_input(taken.path, job_id)
    finally:
        taken.path.unlink(missing_ok=True)
    opened.ledger.add_job(job_id, account=session.account, name=name, settings=settings, rows=taken.rows)
    job = Job(opened, job_id, client=client, session=session)
    job.advance()
    return job


def _check_batch_limits(requests: int, size: int, queued: int, attempts: int) -> None:
    limits = {
        "max_batch_requests": (requests, MAX_REQUESTS),
        "max_batch_bytes": (size, MAX_BYTES),
        "max_queued_requests": (queued, None),
        "max_attempts": (attempts, None),
    }
    for name, (value, most) in limits.items():
        if value < 1 or (most is not None and value > most):
            raise InputError(f"{name} is {value:,}. It must be from 1 to {most:,}." if most else f"{name} is {value}.")


def _one_template(
    prompt_column: str | None, template: str | None, template_file: str | os.PathLike[str] | None
) -> str | None:
    given = [value for value in (prompt_column, template, template_file) if value is not None]
    if len(given) != 1:
        raise InputError("Give one of prompt_column=, template= and template_file=, and only one.")
    if template_file is None:
        return template
    try:
        return Path(template_file).expanduser().read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read the template file {template_file}: {error}.") from error


def _parse(taken: Snapshot, prompt_column: str | None, text: str | None) -> Template:
    if text is None:
        return Template.of_column(prompt_column or "", schema=taken.schema, source=taken.label)
    return Template.parse(text, columns=taken.schema.names, source=taken.label)


def _job_id(account: str, name: str | None, digest: str, settings: Settings) -> str:
    form = settings.form
    parts = [account, name, digest, settings.prefix, form.template, form.header, form.prefix, form.suffix]
    address = blake2b(msgspec.json.encode(parts), digest_size=10).digest()
    return f"job_{b32encode(address).decode().lower()}"


class Job:
    """One table being answered. It lives in its store: another process may open and advance it as well."""

    def __init__(
        self,
        store: Store,
        job_id: str,
        *,
        base_url: str | None = None,
        client: "Anthropic | None" = None,
        session: _Session | None = None,
    ) -> None:
        self.job_id = job_id
        self._store = store
        self._base_url = base_url
        self._client = client
        self._session = session
        self._notes: list[str] = []

    def __repr__(self) -> str:
        return f"<Job {one_line(self.status())}>"

    @property
    def _record(self) -> JobRecord:
        record = self._store.ledger.job(self.job_id)
        if record is None:
            raise UnknownJobError(self.job_id, store=str(self._store.path), known=[])
        return record

    @property
    def _settings(self) -> Settings:
        return Settings.of(self._record)

    def _start_session(self) -> _Session:
        if self._session is None:
            client = self._client or make_client(self._base_url or self._settings.base_url)
            self._session = _Session.start(self._store, client)
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
        session = self._start_session()
        step = Advance(self._store, session.api, session.account, session.owner, self.job_id)
        step.run()
        self._notes = step.notes
        return self.status()

    def wait(
        self,
        *,
        timeout: float | None = None,
        poll_interval: float = 30.0,
        on_status: Callable[[Status], None] | None = None,
    ) -> "Job":
        """Advance until the job has ended; sleep `poll_interval` seconds in between.

        Raises:
            WaitTimeoutError: It has not ended after `timeout` seconds; its batches run on.
            JobBlockedError: It goes on only after its user has mended something.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            status = self.advance()
            if on_status:
                on_status(status)
            if status.state == "ended":
                return self
            if status.state == "blocked":
                raise JobBlockedError(self.job_id, reason=status.reason or "")
            left = poll_interval if deadline is None else min(poll_interval, deadline - time.monotonic())
            if left <= 0:
                raise WaitTimeoutError(self.job_id, seconds=timeout or 0)
            time.sleep(left)

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
    """List a store's jobs, the oldest first."""
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
        ApiError: The API could not be reached, or refuses the credentials.
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
    notes: dict[str | None, list[str]] = {}
    for place in set(places.values()):
        session = _Session.start(opened, client or make_client(place))
        taken = Advance(opened, session.api, session.account, session.owner)
        step(taken)
        notes[place] = taken.notes
    records = [opened.ledger.job(job_id) for job_id in places]
    return [report(opened, record, notes=notes[places[record.job_id]]) for record in records if record]


def _existing(path: Path) -> Store | None:
    return Store(path) if (path / "ledger.sqlite").exists() else None


def _check_id_column(taken: Snapshot, id_column: str | None) -> str | None:
    if id_column is not None and id_column not in taken.schema.names:
        raise MissingColumnError(id_column, source=taken.label, columns=taken.schema.names)
    return id_column
