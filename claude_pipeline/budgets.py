"""Budgets: the dollars that a job, or a store for an account, may cost.

They hold because the most that a batch can cost is reserved before it is sent, and settled when its usage is known.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from math import inf
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from claude_pipeline.bodies import shard_requests
from claude_pipeline.books import PERIODS, Per
from claude_pipeline.display import usd
from claude_pipeline.measuring import Scales, weigh
from claude_pipeline.pricing import BATCH_DISCOUNT, LIST_PRICE, PRICES_FILE, PriceList
from claude_pipeline.prompts import Request
from claude_pipeline.records import ENDED, PLANNED, QUEUED, STREAMING, Shard
from claude_pipeline.settings import Settings
from claude_pipeline.store import Store

_IN_FLIGHT = (*QUEUED, *ENDED, *STREAMING)
_ROUNDING = 1e-9  # sums of dollars are not exact
_OVER_A_MONTH = timedelta(days=31)


class OverBudgetError(Exception):
    """Not one request of a shard fits into its budgets, and nothing is in flight that may cost less than reserved."""


class Budget(NamedTuple):
    """Dollars that may be spent, that are spent, and that are reserved for what is in flight.

    `until` is when it begins anew, in seconds since the epoch; None for one that never does.
    """

    whose: str
    limit: float
    spent: float
    reserved: float
    until: float | None = None

    @property
    def left(self) -> float:
        """Dollars that may still be reserved."""
        return self.limit - self.spent - self.reserved + _ROUNDING

    def __str__(self) -> str:
        reserved = f", {usd(self.reserved)} reserved" if self.reserved else ""
        return f"of the {usd(self.limit)} that {self.whose} may cost {usd(self.spent) or '$0.00'} are spent{reserved}"


def store_budgets(store: Store, account: int) -> list[Budget]:
    """Return what a store may cost an account, ever and this month (UTC), as far as that is limited."""
    limits: dict[Per | None, float | None] = {per: store.ledger.max_cost_usd(per) for per in PERIODS}
    return [budget_of_store(store, account, per, limit) for per, limit in limits.items() if limit is not None]


def budget_of_store(store: Store, account: int, per: Per | None, limit: float) -> Budget:
    """Return what a store may cost an account, ever or this month (UTC), at a limit in dollars."""
    shards = store.ledger.shards(account)
    if per is None:
        return _sum_up("the store", limit, shards)
    month = Month.of(store.ledger.now())
    lately = [shard for shard in shards if (shard.collected_at or inf) >= month.begin]
    return _sum_up(f"the store in {month}", limit, lately)._replace(until=month.end)


class Month(NamedTuple):
    """A calendar month of UTC: when it begins and when the next one does, in seconds since the epoch."""

    begin: float
    end: float

    @classmethod
    def of(cls, moment: float) -> "Month":
        """Return the month that a moment lies in."""
        begin = datetime.fromtimestamp(moment, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        end = (begin + _OVER_A_MONTH).replace(day=1)
        return cls(begin.timestamp(), end.timestamp())

    def __str__(self) -> str:
        return f"{datetime.fromtimestamp(self.begin, UTC):%Y-%m}"


def _budgets_of(store: Store, shard: Shard) -> list[Budget]:
    limit = Settings.of(store.ledger.planner_of(shard)).limits.max_cost_usd
    of_job = [] if limit is None else [_sum_up("the job", limit, store.ledger.own_shards(shard.job_id))]
    return [*of_job, *store_budgets(store, shard.account)]


def _sum_up(whose: str, limit: float, shards: Sequence[Shard]) -> Budget:
    spent = sum(_spent(shard) for shard in shards if shard.state == "collected")
    reserved = sum(shard.reserved_usd or 0.0 for shard in shards if shard.state in _IN_FLIGHT)
    return Budget(whose, limit, spent, reserved)


def _spent(shard: Shard) -> float:
    return (shard.reserved_usd or 0.0) if shard.cost_usd is None else shard.cost_usd


def _tightest(store: Store, shard: Shard) -> Budget | None:
    return min(_budgets_of(store, shard), key=lambda budget: budget.left, default=None)


def has_budget(store: Store, shard: Shard) -> bool:
    """Tell whether there is room in the budgets for all that a shard reserves."""
    tightest = _tightest(store, shard)
    return tightest is None or (shard.reserved_usd is not None and shard.reserved_usd <= tightest.left)


def may_reserve(store: Store, shard: Shard) -> bool:
    """Tell whether it is worth trying to send a planned shard, as far as budgets go."""
    tightest = _tightest(store, shard)
    return tightest is None or not tightest.reserved or (shard.reserved_usd or 0.0) <= tightest.left


def fit(store: Store, shard: Shard) -> Shard | None:
    """Cut a planned shard to what its budgets have room for; None if it waits until what is in flight is settled.

    Raises:
        OverBudgetError: It would wait for ever.
    """
    tightest = _tightest(store, shard)
    if tightest is None or has_budget(store, shard):
        return shard
    if shard.reserved_usd is None or not tightest.reserved:
        costs = _worst_costs(store, shard)
        tightest = _tightest(store, shard) or tightest  # reckoning takes its time
        fitting = int(np.searchsorted(np.cumsum(costs), tightest.left, side="right"))
        reserved = _reserve(store, shard, costs, fitting, tightest)
        if reserved is None or fitting:
            return reserved
    _tell(store, shard.shard, tightest)
    return None


def _tell(store: Store, shard: int, budget: Budget) -> None:
    store.ledger.move(shard, PLANNED, reason=f"A batch waits for the budget: {budget}.")


def _reserve(
    store: Store, shard: Shard, costs: npt.NDArray[np.float64], fitting: int, tightest: Budget
) -> Shard | None:
    """Note what a planned shard reserves, cut to what fits; None if another process was faster: it may be sent."""
    ledger = store.ledger
    if not (fitting or tightest.reserved):
        _refuse(store, shard, float(costs[0]), tightest)
        return None
    with ledger.transaction():
        current = ledger.shard(shard.shard)
        if current.state != "planned" or current.requests != len(costs):
            return None
        held = costs[: fitting or None].sum()
        if 0 < fitting < len(costs) and (rest := ledger.split(shard, at=fitting)):
            _tell(store, rest, tightest._replace(reserved=tightest.reserved + float(held)))
        ledger.move(shard.shard, PLANNED, reserved_usd=float(held))
        return ledger.shard(shard.shard)  # as it is now: once it may be sent, others may send it


def _refuse(store: Store, shard: Shard, cost: float, tightest: Budget) -> None:
    """Let a shard wait for the next month, if that is what helps."""
    if tightest.until is None or cost > tightest.limit:
        raise OverBudgetError(
            f"The next request may cost {usd(cost)}, but {tightest}. Submit again with a larger "
            "max_cost_usd=, or give the store a larger budget, then `resume`."
        )
    following = Month.of(tightest.until)
    reason = (
        f"The next request may cost {usd(cost)}, but {tightest}. It waits for {following} (UTC). Give the store a "
        "larger budget for the month to go on now."
    )
    store.ledger.move(shard.shard, PLANNED, not_before=tightest.until, reason=reason)


class Purse:
    """What a stream may spend of its budgets, shared by its threads: the most that each request can cost is held.

    Attributes:
        reserved: Dollars that the ledger holds for it.
    """

    def __init__(self, costs: Sequence[float], reserved: float) -> None:
        self.reserved = reserved
        self._costs, self._held, self._spent = costs, 0.0, 0.0
        self._changed = threading.Condition()

    @contextmanager
    def holding(self, position: int) -> Iterator[list[float | None]]:
        """Hold what a request of the shard can cost; the body puts what it did cost into the list.

        Raises:
            OverBudgetError: There is no room for it, nor will there be.
        """
        most = self._costs[position]
        cost: list[float | None] = []
        with self._changed:
            while self._spent + self._held + most > self.reserved + _ROUNDING:
                if not self._held:
                    raise OverBudgetError(f"It may cost {usd(most)}, and {usd(self.reserved - self._spent)} are left.")
                self._changed.wait()
            self._held += most
        try:
            yield cost
        finally:
            with self._changed:
                self._held -= most
                self._spent += sum(most if paid is None else paid for paid in cost)
                self._changed.notify_all()


def open_purse(store: Store, shard: Shard) -> Purse | None:
    """Reserve what a streamed shard may cost, or what its budgets have left; None if there is no budget.

    Raises:
        OverBudgetError: A model has no known price.
    """
    if not _budgets_of(store, shard):
        return None
    costs = _worst_costs(store, shard)
    with store.ledger.transaction():
        tightest = _tightest(store, shard)
        reserved = float(min(costs.sum(), max(0.0, tightest.left if tightest else inf)))
        store.ledger.move(shard.shard, STREAMING, reserved_usd=reserved)
    return Purse(costs.tolist(), reserved)


def _worst_costs(store: Store, shard: Shard) -> npt.NDArray[np.float64]:
    """Return the most that each request of a shard can cost in dollars.

    Raises:
        OverBudgetError: A model has no known price.
    """
    settings = Settings.of(store.ledger.planner_of(shard))
    share = LIST_PRICE if settings.mode == "stream" else BATCH_DISCOUNT
    prices = PriceList(datetime.now(UTC), store=store.path, share=share)
    measure = weigh if shard.asking else Scales(settings.form).weigh  # limits differ among those that are asked again
    costs = []
    for request in shard_requests(store, shard, settings):
        weight = measure(request.params) if isinstance(request, Request) else None
        cost = weight.worst_case_usd(prices) if weight else 0.0
        if cost is None:
            raise OverBudgetError(
                f"There is no known price for {weight.model if weight else ''}, so no budget can be kept. "
                f"Give its price in {store.path / PRICES_FILE}, then `resume`."
            )
        costs.append(cost)
    return np.array(costs, dtype=np.float64)
