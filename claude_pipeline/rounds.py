"""What is done for every open job of a store at once."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from claude_pipeline.advancing import Advance
from claude_pipeline.announcing import OnEnded, announcing
from claude_pipeline.errors import AccountError, ApiError, PipelineError
from claude_pipeline.logs import tell
from claude_pipeline.records import OPEN_JOBS, JobRecord
from claude_pipeline.refusals import is_passing
from claude_pipeline.reports import Note, report
from claude_pipeline.sessions import Session, StorePath, existing_store
from claude_pipeline.settings import Settings
from claude_pipeline.status import Status
from claude_pipeline.store import Store, find_store
from claude_pipeline.traces import span
from claude_pipeline.transport import make_client

if TYPE_CHECKING:
    from anthropic import Anthropic


def advance(
    *,
    store: StorePath = None,
    ledger: str | None = None,
    base_url: str | None = None,
    client: "Anthropic | None" = None,
    on_ended: OnEnded | None = None,
) -> list[Status]:
    """Advance every open job of a store that belongs to the client's account; return how they stand.

    `on_ended` is told of each job of the store that has ended or is blocked and that nobody was told of yet: a function
    is given its status, a shell command has that as JSON on its stdin. Which ended before anybody asked is not told.

    Raises:
        ApiError: The API refuses the credentials.
    """
    opened = existing_store(find_store(store), ledger)
    with announcing(opened, on_ended), span("advance"):
        return _over_open_jobs(Advance.run, opened, base_url, client)


def poll(
    *,
    store: StorePath = None,
    ledger: str | None = None,
    base_url: str | None = None,
    client: "Anthropic | None" = None,
    unless_polled_within: float = 0.0,
) -> list[Status]:
    """Ask the API how the running batches of a store stand, with list calls alone; return how its open jobs do.

    A poll by anybody in the last `unless_polled_within` seconds will do, so that one serves all who ask.

    Raises:
        ApiError: The API refuses the credentials; what is passing stands in the `reason` of a status instead.
    """
    opened = existing_store(find_store(store), ledger)
    jobs = opened.ledger.jobs(OPEN_JOBS) if opened and unless_polled_within else []
    accounts = {job.account for job in jobs}
    if opened and accounts and all(opened.ledger.is_polled(each, within=unless_polled_within) for each in accounts):
        return [report(opened, job) for job in jobs]
    return _over_open_jobs(Advance.poll, opened, base_url, client)


def _over_open_jobs(
    step: Callable[[Advance], None], opened: Store | None, base_url: str | None, client: "Anthropic | None"
) -> list[Status]:
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
        self._notes: list[Note] = []
        try:
            self._take(step, client or make_client(place))
        except PipelineError as error:
            if isinstance(error, ApiError) and is_passing(error):
                self._notes = [Note(f"{error} Trying again.")]
                tell("job.put_off", job_id=None, reason=self._notes[0].words)
            else:
                self.error = error
        if self._account is not None and any(note.shard is None for note in self._notes):
            store.ledger.forget_poll(self._account)  # who asks next should hear of it as well

    def _take(self, step: Callable[[Advance], None], client: "Anthropic") -> None:
        session = Session.start(self._store, client)
        self._account = session.account
        taken = Advance(self._store, session.api, session.account, session.owner)
        self._notes = taken.notes
        step(taken)

    def notes_on(self, job: JobRecord) -> list[Note]:
        """Say what could not be done for a job; of another account's, whose it is."""
        if self._account in {None, job.account}:
            return self._notes
        name = self._store.ledger.account_name
        whose = AccountError(job.job_id, account=name(job.account), client_account=name(self._account or 0))
        return [Note(str(whose))]
