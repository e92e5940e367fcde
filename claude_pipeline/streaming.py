"""Streaming: a few rows answered now, token by token, into the same store as the batches."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

import msgspec

from claude_pipeline.answering import Answered, Answering, Heard, errored
from claude_pipeline.bodies import shard_requests
from claude_pipeline.budgets import OverBudgetError, Purse, open_purse
from claude_pipeline.crew import Crew
from claude_pipeline.errors import InputError
from claude_pipeline.finishing import end_abandoned_streams, finish
from claude_pipeline.forms import RequestOptions
from claude_pipeline.jobs import Job
from claude_pipeline.journal import Journal, end_stream, open_journal
from claude_pipeline.keywords import named
from claude_pipeline.leases import LEASE_SECONDS, renewed
from claude_pipeline.messages import MessagesApi
from claude_pipeline.pace import Pace
from claude_pipeline.planning import plan
from claude_pipeline.prompts import Request
from claude_pipeline.records import JobRecord, Shard
from claude_pipeline.sending import traced
from claude_pipeline.sessions import StorePath
from claude_pipeline.settings import Limits, Settings
from claude_pipeline.shards import MAX_BYTES, MAX_REQUESTS
from claude_pipeline.sources import Source
from claude_pipeline.store import Store
from claude_pipeline.streamed import Rows, StreamedRow
from claude_pipeline.submitting import Asked, begin
from claude_pipeline.traces import span
from claude_pipeline.values import Unsendable

if TYPE_CHECKING:
    from anthropic import Anthropic

    from claude_pipeline.derived import Content

OnText = Callable[[int, str], object]
OnEvent = Callable[[int, dict[str, Any]], object]


class StreamOptions(RequestOptions, total=False):
    """What `stream` takes of requests and answers, for those who hand it on; see `stream`."""

    content: "Content | None"
    id_column: str | None
    prefix: str
    limit: int | None
    max_rows: int | None
    preflight: bool
    max_cost_usd: float | None
    max_attempts: int
    max_concurrency: int
    in_order: bool
    idle_timeout: float
    on_text: OnText | None
    on_event: OnEvent | None
    name: str | None
    store: StorePath
    ledger: str | None
    base_url: str | None
    client: "Anthropic | None"


class Stream(Iterator[StreamedRow]):
    """Rows as they are answered. Closing it, or letting go of it, ends what is under way; what is complete is kept.

    Attributes:
        job: The job that the answers belong to, as of a batch: to write, to look at, to read as a table.
    """

    def __init__(self, job: Job, rows: Iterator[StreamedRow]) -> None:
        self.job = job
        self._rows = rows

    def __next__(self) -> StreamedRow:
        return next(self._rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End what is under way: rows without an answer are not asked any more."""
        close = getattr(self._rows, "close", None)
        if close:
            close()


@named(*RequestOptions.__optional_keys__)
def stream(
    source: Source,
    *,
    max_concurrency: int = 8,
    in_order: bool = False,
    on_text: OnText | None = None,
    on_event: OnEvent | None = None,
    idle_timeout: float = 120.0,
    max_attempts: int = 3,
    max_cost_usd: float | None = None,
    content: "Content | None" = None,
    id_column: str | None = None,
    prefix: str = "",
    limit: int | None = None,
    max_rows: int | None = None,
    preflight: bool = True,
    name: str | None = None,
    store: StorePath = None,
    ledger: str | None = None,
    base_url: str | None = None,
    client: "Anthropic | None" = None,
    **request: Unpack[RequestOptions],
) -> Stream:
    """Ask the rows of a small table now, and yield each as it is answered; at list price, twice that of a batch.

    The answers go into the store, so no batch pays for them again, nor does another stream. A row whose answer the
    store has comes without a call; one that a batch is asking comes as in progress. An answer that breaks off is
    continued where the model allows it, and else asked again. Nothing is asked before the first row is taken.

    Args:
        source: The table, as for `submit`. All of it is held in memory.
        max_concurrency: Rows that are asked at once, at most; it starts with two and heeds the API's limits.
        in_order: Yield rows in the order of the input instead of as they are answered.
        on_text: Called with a row's position and each piece of its text, in the thread that takes the rows.
        on_event: Called with a row's position and each event of the API, and with a `retry` event before a row is
            asked once more: `attempt`, `continues` and `error`.
        idle_timeout: Seconds without any event, pings included, after which a connection is given up.
        max_attempts: How often a row is asked whose connection breaks or that the API cannot answer just now.
        max_cost_usd: Dollars that the rows may cost. Refused before anything is asked if it is sure to cost more; rows
            that there may be no room for are `over_budget`.
        content: "json" keeps all blocks of an answer in `output["content"]`.
        id_column: A column that names rows in messages.
        prefix: Put before the names of the columns that are added to the job's table.
        limit: Ask only the first so many rows.
        max_rows: Refuse a table of more rows.
        preflight: Show the first request to the free `count_tokens` endpoint before anything is asked.
        name: What to call the job in lists.
        store: The store, as for `submit`.
        ledger: Its ledger, as for `submit`.
        base_url: Where the API is, if not where the SDK looks.
        client: An `anthropic.Anthropic` to use.
        **request: What makes a row a request, as for `submit`; see `RequestOptions`.

    Raises:
        InputError: The table, the template or a parameter cannot become requests, or the API would refuse them.
        TooManyRowsError: The table has more than `max_rows`.
        CredentialsError: There is no API key.
        ApiError: The API refuses the credentials, the account cannot pay, or there is no such model.
        StoreError: The store cannot be written.
    """
    for option, value in (("max_concurrency", max_concurrency), ("limit", limit), ("max_rows", max_rows)):
        if value is not None and value < 1:
            raise InputError(f"{option} is {value}. Pass 1 or more.")
    if not idle_timeout > 0:
        raise InputError(f"idle_timeout is {idle_timeout}. Pass seconds, such as 120.")
    limits = Limits(MAX_REQUESTS, MAX_BYTES, MAX_REQUESTS, max_attempts, max_cost_usd=max_cost_usd)
    asked = Asked(
        request,
        limits,
        content=content,
        id_column=id_column,
        prefix=prefix,
        name=name,
        mode="stream",
        max_rows=max_rows,
    )
    with span("stream") as opened:
        job = begin(
            source,
            asked,
            store=store,
            ledger=ledger,
            base_url=base_url,
            client=client,
            limit=limit,
            preflight=preflight,
        )
        opened.note(job_id=job.job_id)
    run = _Run(job, size=max_concurrency, idle_timeout=idle_timeout, on_text=on_text, on_event=on_event)
    return Stream(job, _ordered(run.rows()) if in_order else run.rows())


def _ordered(rows: Iterator[StreamedRow]) -> Iterator[StreamedRow]:
    """Hold back rows that are ahead of others."""
    ahead: dict[int, StreamedRow] = {}
    following = 0
    for row in rows:
        ahead[row.row] = row
        while following in ahead:
            yield ahead.pop(following)
            following += 1


class _Run:
    """One run over a job's rows."""

    def __init__(
        self, job: Job, *, size: int, idle_timeout: float, on_text: OnText | None, on_event: OnEvent | None
    ) -> None:
        self._store, self._session, self._client = job.parts()
        self._ledger, self._owner, self._job_id = self._store.ledger, self._session.owner, job.job_id
        self._size, self._idle_timeout = size, idle_timeout
        self._on_text, self._on_event = on_text, on_event

    def rows(self) -> Iterator[StreamedRow]:
        """Plan, ask, and yield rows as they are answered; whatever ends it, what is complete is kept."""
        job = self._plan()
        own = self._ledger.own_shards(self._job_id)
        mine = [shard for shard in own if shard.state == "streaming" and shard.owner == self._owner]
        try:
            with renewed(lambda: [self._ledger.renew(shard.shard, owner=self._owner) for shard in mine]):
                rows = Rows(self._store, job)
                asked = {address for shard in mine for address in self._ledger.members(shard.shard).split()}
                yield from rows.known
                yield from rows.elsewhere(asked)
                for shard in mine:
                    yield from self._ask(shard, Settings.of(job), rows)
        finally:
            for shard in mine:
                end_stream(self._store, self._ledger.shard(shard.shard))
            finish(self._store, self._record())

    def _record(self) -> JobRecord:
        record = self._ledger.job(self._job_id)
        assert record is not None  # noqa: S101 - it was begun
        return record

    def _plan(self) -> JobRecord:
        """Plan what has no answer yet, after what killed runs have left behind is put in order."""
        end_abandoned_streams(self._store, self._session.account)
        if not self._ledger.lease_job(self._job_id, owner=self._owner):
            again: dict[str, Any] = {"state": "planning", "reason": None, "unanswered": None, "ended_at": None}
            again |= {"owner": self._owner, "lease_until": self._ledger.now() + LEASE_SECONDS}
            self._ledger.move_job(self._job_id, ("in_progress", "blocked", "canceling", "ended"), **again)
        plan(self._store, self._record(), owner=self._owner)
        return self._record()

    def _ask(self, shard: Shard, settings: Settings, rows: Rows) -> Iterator[StreamedRow]:
        with ExitStack() as stack:
            journal = open_journal(self._store, shard.stream_id or "")
            stack.callback(journal.close)
            asker = _Asker(self._store, shard, journal, rows)
            crew: Crew[_Item, Answered | Heard] = Crew(
                asker.work, asker.items(settings), size=min(self._size, shard.requests)
            )
            stack.callback(crew.join)
            asker.answering = self._answering(settings, crew)
            stack.callback(asker.answering.stop)
            for found in crew:
                if isinstance(found, Heard):
                    self._tell(found)
                else:
                    yield from rows.answered(found)

    def _answering(self, settings: Settings, crew: "Crew[_Item, Answered | Heard]") -> Answering:
        listens = self._on_text or self._on_event
        return Answering(
            MessagesApi(self._client),
            Pace(most=self._size),
            betas=settings.form.betas,
            max_attempts=settings.limits.max_attempts,
            idle_timeout=self._idle_timeout,
            one_model=settings.form.column_of("model") is None,
            hear=crew.tell if listens else None,
            keeps_events=self._on_event is not None,
        )

    def _tell(self, heard: Heard) -> None:
        if self._on_event:
            for data in heard.events:
                self._on_event(heard.row, msgspec.json.decode(data))
        if self._on_text and heard.text:
            self._on_text(heard.row, heard.text)


_Item = tuple[int, int, bytes, Request | Unsendable]


class _Asker:
    """Asks the requests of a shard, within its budget, and keeps what they come to."""

    answering: Answering

    def __init__(self, store: Store, shard: Shard, journal: Journal, rows: Rows) -> None:
        self._store, self._shard, self._journal, self._rows = store, shard, journal, rows
        self._purse = _open_purse(store, shard)
        self._traced = traced(store, shard)

    def items(self, settings: Settings) -> Iterator[_Item]:
        """Yield each request with its position in the shard, its row and its address."""
        members = self._store.ledger.members(self._shard.shard)
        requests = shard_requests(self._store, self._shard, settings)
        for position, (row, request) in enumerate(zip(members.rows.tolist(), requests, strict=True)):
            yield position, row, members.address(position), request

    def work(self, item: _Item) -> Answered:
        """Ask a request, and keep its answer before anybody hears of it."""
        _, row, *_ = item
        with span("stream.row", row=row + 1, **self._traced):
            answered = self._answer(*item)
        self._journal.add(answered.line)
        return answered

    def _answer(self, position: int, row: int, address: bytes, request: Request | Unsendable) -> Answered:
        if isinstance(request, Unsendable):
            return errored(address, request.error_type, request.error_message)
        if self._purse is None:
            return self.answering.answer(row, request)
        try:
            with self._purse.holding(position) as cost:
                answered = self.answering.answer(row, request)
                cost.append(self._rows.cost_usd(answered))
        except OverBudgetError as error:
            return errored(address, "over_budget", f"{error} Raise max_cost_usd=, or the store's budget.")
        return answered


def _open_purse(store: Store, shard: Shard) -> Purse | None:
    try:
        return open_purse(store, shard)
    except OverBudgetError as error:
        raise InputError(str(error)) from None
