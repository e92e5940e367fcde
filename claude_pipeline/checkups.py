"""A check-up: the ledger against the files against the API, and repairs that neither lose nor pay anything."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from platform import python_version
from typing import TYPE_CHECKING

from claude_pipeline.advancing import Advance
from claude_pipeline.collecting import fetch_again, record_lost
from claude_pipeline.display import plural, usd
from claude_pipeline.errors import PipelineError, StoreError
from claude_pipeline.examining import Broken, all_shards, broken_results, examine, lost, places_of
from claude_pipeline.findings import AREAS, Checkup, Finding
from claude_pipeline.finishing import count_unanswered
from claude_pipeline.inspecting import View
from claude_pipeline.migrations import SCHEMA_VERSION
from claude_pipeline.records import ENDED_JOBS, JobRecord
from claude_pipeline.recovery import Recovering, kept_batches
from claude_pipeline.sessions import Session, StorePath, existing_store
from claude_pipeline.store import Store, find_store
from claude_pipeline.transport import check_base_url, make_client

if TYPE_CHECKING:
    from anthropic import Anthropic

_PACKAGES = ("claude-pipeline", "anthropic", "pyarrow")


def doctor(
    *,
    store: StorePath = None,
    ledger: str | None = None,
    base_url: str | None = None,
    client: "Anthropic | None" = None,
    fix: bool = False,
    thorough: bool = False,
    give_up_lost: bool = False,
) -> Checkup:
    """Check a store: its ledger against its files against the API; repair what can be with `fix`.

    Repairs send and pay nothing: shards in doubt are settled, batches that ended are collected, results that are
    missing here and kept at the API are fetched again, batches that the ledger lost are read in. Without
    credentials what is on disk is checked all the same.

    Args:
        store: The folder of ledger, inputs and results.
        ledger: The record of jobs, if it is not a file in the store.
        base_url: Where the API is, if not where the open jobs, or else the last one, were sent.
        client: An `anthropic.Anthropic` to use.
        fix: Repair, and check again.
        thorough: Read every file to its end, instead of what it says of itself.
        give_up_lost: With `fix`, count answers whose file neither the disk nor the API has as not given. The next
            submit, or `resume`, asks and pays for them again.

    Raises:
        StoreError: There is no store, or its ledger cannot be used.
        InputError: The base URL is none, or it holds credentials.
    """
    check_base_url(base_url)
    path = find_store(store)
    opened = existing_store(path, ledger)
    if opened is None:
        raise StoreError(f"There is no store at {path}. Name one with store=, or --store in the shell.")
    look = partial(_Look.take, opened, base_url, client, thorough=thorough)
    before = look()
    if not fix:
        return before.checkup(give_up_lost=False)
    found = before.findings(give_up_lost=give_up_lost)
    before.mend(give_up_lost=give_up_lost)
    after = look().checkup(give_up_lost=False)
    left = {_subject(finding) for finding in after.findings}
    repaired = [replace(each, is_repaired=True) for each in found if each.repair and _subject(each) not in left]
    return replace(after, findings=_in_order([*repaired, *after.findings]))


def _subject(finding: Finding) -> tuple[str, str | None, str | None]:
    return finding.kind, finding.job_id, finding.batch_id


def _in_order(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: AREAS.index(finding.area)))


@dataclass(frozen=True, slots=True)
class _Look:
    """A store as it stands, beside what the API shows.

    Attributes:
        views: By account, what its API keeps.
        not_asked: Why others could not be asked.
        examined: What was found without the API.
        broken: Results that cannot be used.
    """

    store: Store
    jobs: list[JobRecord]
    views: dict[int, View]
    not_asked: list[Finding]
    examined: list[Finding]
    broken: list[Broken]

    @classmethod
    def take(cls, store: Store, base_url: str | None, client: "Anthropic | None", *, thorough: bool) -> "_Look":
        """Look at the API first, for what it has collected meanwhile is on disk by then."""
        jobs, views, not_asked = store.ledger.jobs(), dict[int, View](), list[Finding]()
        for place in [base_url] if base_url or client else places_of(jobs):
            try:
                view = _view(store, place, client)
                views[view.session.account] = view
            except PipelineError as error:
                at = f" at {place}" if place else ""
                message = f"The API{at} was not asked, so batches were not checked."
                not_asked.append(Finding("api_not_asked", "account", "warning", message, str(error)))
        jobs, shards = store.ledger.jobs(), all_shards(store)
        examined = [*examine(store, jobs, shards, thorough=thorough)]
        broken = [*broken_results(store, shards, thorough=thorough)]
        return cls(store, jobs, views, not_asked, examined, broken)

    def checkup(self, *, give_up_lost: bool) -> Checkup:
        """Put together what was found."""
        versions = {name: version(name) for name in _PACKAGES}
        return Checkup(
            store=str(self.store.path),
            accounts=tuple(view.account for view in self.views.values()),
            versions=versions | {"Python": python_version(), "schema": str(SCHEMA_VERSION)},
            jobs=len(self.jobs),
            batches=len(self.store.ledger.batch_ids()),
            findings=self.findings(give_up_lost=give_up_lost),
        )

    def findings(self, *, give_up_lost: bool) -> tuple[Finding, ...]:
        """Return what was found, by area."""
        broken = [self._prospect(each, give_up_lost=give_up_lost) for each in self.broken]
        return _in_order([*self.examined, *broken, *self._inspected(), *self.not_asked, *self._others()])

    def _inspected(self) -> Iterator[Finding]:
        for account, view in self.views.items():
            yield from view.inspect(self.store.ledger.shards(account))

    def _others(self) -> Iterator[Finding]:
        """Say whose jobs were looked at on disk alone."""
        for account in sorted({job.account for job in self.jobs} - self.views.keys()):
            if self.views:
                number = sum(job.account == account for job in self.jobs)
                name = self.store.ledger.account_name(account)
                were = "was" if number == 1 else "were"
                message = f"Of account {name} {plural(number, 'job')} {were} checked on disk alone."
                way_out = "Run this with its key, or its --base-url, to check its batches."
                yield Finding("other_account", "account", "info", message, way_out)

    def _prospect(self, broken: Broken, *, give_up_lost: bool) -> Finding:
        """Say whether results that cannot be used can come back."""
        shard, cost = broken.shard, usd(broken.shard.cost_usd)
        if self._may_return(broken):
            return lost(broken, way_out="The API still has it.", repair="fetches it again")
        if shard.batch_id and shard.account not in self.views:
            name = self.store.ledger.account_name(shard.account)
            way_out = f"Bring it back from a backup, or run this as account {name}, whose API may still have it."
            return lost(broken, way_out=way_out, repair=None)
        again = f"`resume` or a submit then asks again, and pays{f' about {cost}' if cost else ''} again."
        if give_up_lost:
            return lost(broken, way_out=None, repair="gives it up", more=f"It is given up: {again}")
        way_out = f"Bring it back from a backup. Or give it up with --fix --give-up-lost: {again}"
        return lost(broken, way_out=f"The API does not have it. {way_out}", repair=None)

    def _may_return(self, broken: Broken) -> bool:
        view = self.views.get(broken.shard.account)
        batch = view.batches.get(broken.shard.batch_id or "") if view else None
        return batch is not None and batch.has_results

    def _is_lost(self, broken: Broken) -> bool:
        """Make sure of it: a batch that the list left out may be there."""
        shard = broken.shard
        if shard.batch_id is None:
            return True
        view = self.views.get(shard.account)
        batch = view.session.api.retrieve(shard.batch_id) if view else None
        return view is not None and not (batch and batch.has_results)

    def mend(self, *, give_up_lost: bool) -> None:
        """Repair what can be; what cannot is found again by the next look."""
        for view in self.views.values():
            session = view.session
            with suppress(PipelineError):
                Advance(self.store, session.api, session.account, session.owner).gather()
            with suppress(PipelineError):
                recovering = Recovering(self.store, session, view.base_url)
                for batch in view.orphans:
                    recovering.take(batch)
        for broken in self.broken:
            with suppress(PipelineError):
                self._mend(broken, give_up_lost=give_up_lost)
        self.store.sweep()

    def _mend(self, broken: Broken, *, give_up_lost: bool) -> None:
        shard = broken.shard
        if self._may_return(broken):
            view = self.views[shard.account]
            fetch_again(self.store, view.session.api, shard, view.batches[shard.batch_id or ""])
        elif give_up_lost and self._is_lost(broken):
            record_lost(self.store, shard)
            ledger = self.store.ledger
            for job in ledger.waiting_jobs(shard.shard, ENDED_JOBS):
                ledger.move_job(job.job_id, ENDED_JOBS, unanswered=count_unanswered(self.store, job))


def _view(store: Store, place: str | None, client: "Anthropic | None") -> View:
    session = Session.start(store, client or make_client(place))
    batches = kept_batches(session.api, default=store.ledger.now())
    return View(store, session, place, {batch.id: batch for batch in batches})
