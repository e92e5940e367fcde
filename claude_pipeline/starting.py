"""Starting: a snapshot and its settings become a job of the store, if it may cost what it is expected to."""

import getpass
import os
import platform
from base64 import b32encode
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import blake2b
from math import inf

import msgspec

from claude_pipeline.budgets import store_budgets
from claude_pipeline.display import usd
from claude_pipeline.errors import InputError
from claude_pipeline.estimates import Estimate
from claude_pipeline.logs import tell
from claude_pipeline.parquets import read_batches
from claude_pipeline.places import RemotePath
from claude_pipeline.preflight import preflight as check_first
from claude_pipeline.pricing import PRICES_FILE, PriceList
from claude_pipeline.prompts import RequestForm
from claude_pipeline.sessions import Session
from claude_pipeline.settings import Settings
from claude_pipeline.sources import Snapshot
from claude_pipeline.store import Store
from claude_pipeline.traces import traceparent


def start(
    store: Store,
    session: Session,
    taken: Snapshot,
    settings: Settings,
    *,
    name: str | None,
    preflight: bool,
    estimated: Callable[[], Estimate],
) -> str:
    """Make a snapshot a job, unless it is one already; return its id.

    Args:
        store: Where the job will live.
        session: Who asks.
        taken: The input, whose file moves to the job.
        settings: What was asked for.
        name: What to call the job in lists.
        preflight: Whether the API should see the first request before anything is sent.
        estimated: Says what it would cost, if somebody has to know.

    Raises:
        InputError: The API would refuse the requests, they are expected to cost more than they may, or the file of
            the user's own prices cannot be used, without which no answer could be collected.
    """
    PriceList(datetime.now(UTC), store=store.path)
    digest = _digest(taken, settings.form)
    job_id = _job_id(store.ledger.account_name(session.account), name, digest, settings)
    known = store.ledger.job(job_id)
    is_new = known is None or known.pruned_at is not None
    if preflight and is_new:
        check_first(session.api, settings.form, taken.path, label=taken.label, id_column=settings.id_column)
    if is_new:
        _check_cost(store, session, settings, estimated)
    if known is None or isinstance(store.path, RemotePath):  # an upload is too long for a transaction
        store.keep_input(taken.path, job_id)
    submitted = {"submitted_by": _user(), "submitted_from": platform.node() or None, "traceparent": traceparent()}
    with store.ledger.transaction():
        if known is not None:  # it may just be pruned, which removes the input in a transaction of its own
            store.keep_input(taken.path, job_id)
        store.ledger.add_job(
            job_id, account=session.account, name=name, settings=settings, rows=taken.rows, submitted=submitted
        )
    told = {"source": settings.label, "model": settings.model, "job_name": name}
    tell("job.submitted", job_id=job_id, rows=taken.rows, **told)
    return job_id


def _user() -> str:
    """Name who runs this process, who need not be known by name in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return f"uid {os.getuid()}" if hasattr(os, "getuid") else "unknown"


def _check_cost(store: Store, session: Session, settings: Settings, estimated: Callable[[], Estimate]) -> None:
    """Refuse what is expected to cost more than there is."""
    left = {"max_cost_usd": settings.limits.max_cost_usd or inf}
    left |= {f"the budget of {budget.whose}": budget.left for budget in store_budgets(store, session.account)}
    name, most = min(left.items(), key=lambda item: item[1])
    if most == inf:
        return
    found = estimated()
    cost = found.live_usd if settings.mode == "stream" else found.batch_usd
    if cost is None:
        raise InputError(
            f"There is no known price for {', '.join(found.unpriced)}, so {name} cannot be kept. "
            f"Give its price in {store.path / PRICES_FILE}."
        )
    if cost.expected > most:
        raise InputError(
            f"This is expected to cost {usd(cost.expected)} ({usd(cost.low)} to {usd(cost.high)}), more than the "
            f"{usd(most) or '$0.00'} left of {name}. Nothing was sent. Raise it, or ask less."
        )


def _job_id(account: str, name: str | None, digest: str, settings: Settings) -> str:
    parts: list[object] = [account, name, digest, settings.prefix, settings.form]
    if settings.retries:
        parts.append(settings.retries)
    if settings.mode == "stream":  # a job of its own: whoever submits the same sends what it has no answer to
        parts.append(settings.mode)
    return name_job(parts)


def name_job(parts: list[object]) -> str:
    """Name a job by what it is, so that the same is the same job."""
    address = blake2b(msgspec.json.encode(parts), digest_size=10).digest()
    return f"job_{b32encode(address).decode().lower()}"


def _digest(taken: Snapshot, form: RequestForm) -> str:
    """Return what tells one input from another: its own digest, and when the files that it names were changed."""
    columns = form.path_columns(taken.schema)
    if not columns:
        return taken.digest
    hashed = blake2b(taken.digest.encode(), digest_size=16)
    for _, batch in read_batches(taken.path, columns):
        hashed.update(form.stamp(batch))
    return hashed.hexdigest()
