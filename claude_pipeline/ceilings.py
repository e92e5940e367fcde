"""What a store may cost: setting it, and seeing what is left."""

from dataclasses import dataclass
from math import inf

from claude_pipeline.books import PERIODS, Per
from claude_pipeline.budgets import Month, budget_of_store
from claude_pipeline.errors import InputError
from claude_pipeline.sessions import StorePath, existing_store
from claude_pipeline.settings import is_amount
from claude_pipeline.store import Store, find_store


def set_budget(
    max_cost_usd: float | None, *, per: Per | None = None, store: StorePath = None, ledger: str | None = None
) -> None:
    """Limit what a store may cost each account in dollars; None lifts the limit. Both limits may stand at once.

    What could cost more waits until earlier batches have turned out cheaper. Then it waits for the next month, or
    blocks its job where no month helps.

    Args:
        max_cost_usd: Dollars.
        per: "month" for what is collected in a calendar month of UTC; None for all since the first batch.
        store: The store, as for `submit`.
        ledger: Its ledger, as for `submit`.

    Raises:
        InputError: It is no amount, or `per` is something else.
    """
    if max_cost_usd is not None and not is_amount(max_cost_usd):
        raise InputError(f"The budget is {max_cost_usd!r}. Give dollars, such as 25, or None for no limit.")
    if per not in PERIODS:
        raise InputError(f"per is {per!r}. Pass per='month', or leave it out.")
    books = Store(find_store(store), ledger).ledger
    books.limit_cost(max_cost_usd, per, until=Month.of(books.now()).end)


@dataclass(frozen=True, slots=True)
class BudgetStatus:
    """What a store has cost an account, and may cost it, in dollars.

    Attributes:
        per: "month" for what stands for this month (UTC), None for what does for ever.
        limit_usd: None if there is no limit.
        reserved_usd: The most that what is in flight can cost; 0 without a limit, since none was asked for.
        left_usd: What may still be reserved; None without a limit.
    """

    account: str
    per: Per | None
    limit_usd: float | None
    spent_usd: float
    reserved_usd: float
    left_usd: float | None


def list_budgets(*, store: StorePath = None, ledger: str | None = None) -> list[BudgetStatus]:
    """Tell what a store has cost each account, ever and this month (UTC), and what `set_budget` leaves of it."""
    opened = existing_store(find_store(store), ledger)
    accounts = opened.ledger.accounts() if opened else {}
    return [_tell_budget(opened, *account, per) for account in accounts.items() for per in PERIODS if opened]


def _tell_budget(store: Store, account: int, name: str, per: Per | None) -> BudgetStatus:
    limit = store.ledger.max_cost_usd(per)
    found = budget_of_store(store, account, per, inf if limit is None else limit)
    left = None if limit is None else max(0.0, limit - found.spent - found.reserved)
    return BudgetStatus(name, per, limit, found.spent, found.reserved, left)
