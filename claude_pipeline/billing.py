"""What a store has cost: by day, by model or by job. All three add up to the same, for they sum up the same shares."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from math import inf
from typing import Any, Literal, get_args

import pyarrow as pa

from claude_pipeline.arrays import make_record_batch
from claude_pipeline.books import Spent
from claude_pipeline.errors import InputError, StoreError
from claude_pipeline.files import reading
from claude_pipeline.parquets import open_parquet, read_batches
from claude_pipeline.pricing import BATCH_DISCOUNT, LIST_PRICE, PriceList
from claude_pipeline.records import ModelUsage, Shard
from claude_pipeline.sessions import StorePath, existing_store
from claude_pipeline.settings import Settings
from claude_pipeline.spending import SPENDING_COLUMNS, Spending
from claude_pipeline.status import total_usd
from claude_pipeline.store import Store, find_store

By = Literal["day", "model", "job"]
Day = str | date | None

_KEYS = {
    "day": [pa.field("day", pa.date32())],
    "model": [pa.field("model", pa.string())],
    "job": [pa.field("job_id", pa.string()), pa.field("name", pa.string())],
}
_FIGURES = [
    pa.field("answers", pa.int64()),
    pa.field("input_tokens", pa.int64()),
    pa.field("output_tokens", pa.int64()),
    pa.field("cache_read_tokens", pa.int64()),
    pa.field("cache_write_tokens", pa.int64()),
    pa.field("cost_usd", pa.float64()),
    pa.field("list_usd", pa.float64()),
    pa.field("saved_usd", pa.float64()),
]
_Key = tuple[str | None, ...]


def costs(
    *, by: By = "day", since: Day = None, until: Day = None, store: StorePath = None, ledger: str | None = None
) -> pa.Table:
    """Sum up what the answers of a store have cost, for each account by itself.

    What was pruned counts as well. An answer counts on the day on which it came into the store.

    Args:
        by: "day", "model" or "job".
        since: The first day, such as "2026-11-01" or a `datetime.date`, in UTC like all days here.
        until: The last day; it counts as a whole.
        store: The store, as for `submit`.
        ledger: Its ledger, as for `submit`.

    Returns:
        `account`, `day`, `model` or `job_id` and `name`, then `answers`, tokens as in a `Status`, and dollars:
        `cost_usd` was paid, `list_usd` is the same at list price, `saved_usd` the difference. They are null where a
        price is unknown. Days are in their order, models and jobs begin with the dearest. What a sandbox has answered
        stands under its account "sandbox", at the prices that the API would have taken; it has cost nothing.

    Raises:
        InputError: `by` or a day is something else.
    """
    if by not in get_args(By):
        raise InputError(f"by is {by!r}. Give one of {', '.join(get_args(By))}.")
    first, last = _read_day("since", since), _read_day("until", until)
    opened = existing_store(find_store(store), ledger)
    if opened is None:
        return _table([], by)
    for shard in opened.ledger.unknown_usage():
        sum_up_later(opened, shard)
    after = inf if last is None else _seconds(last + timedelta(days=1))
    return _table(opened.ledger.spent(-inf if first is None else _seconds(first), after), by)


def _read_day(name: str, day: Day) -> date | None:
    if day is None or (isinstance(day, date) and not isinstance(day, datetime)):
        return day
    try:
        return date.fromisoformat(str(day))
    except ValueError:
        raise InputError(f"{name} is {str(day)!r}, which is no day. Give one such as 2026-11-01.") from None


def _seconds(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


def _table(spent: Iterable[Spent], by: By) -> pa.Table:
    groups: defaultdict[_Key, list[ModelUsage]] = defaultdict(list)
    for one in spent:
        groups[one.account, *_key(one, by)].append(one.usage)
    rows = [(*key, *_figures(usages)) for key, usages in groups.items()]
    schema = pa.schema([pa.field("account", pa.string()), *_KEYS[by], *_FIGURES])
    if not rows:
        return schema.empty_table()
    text = pa.schema([field if field in _FIGURES else field.with_type(pa.string()) for field in schema])
    return pa.Table.from_batches([make_record_batch(sorted(rows, key=_order(by)), text)]).cast(schema)


def _key(spent: Spent, by: By) -> _Key:
    match by:
        case "day":
            return (datetime.fromtimestamp(spent.collected_at, UTC).date().isoformat(),)
        case "model":
            return (spent.usage.model,)
        case "job":
            return spent.job_id, spent.name


def _figures(usages: Sequence[ModelUsage]) -> tuple[object, ...]:
    cost_usd, list_usd = (total_usd(amounts) for amounts in ([u[-2] for u in usages], [u[-1] for u in usages]))
    saved_usd = None if cost_usd is None or list_usd is None else list_usd - cost_usd
    return (*(sum(numbers) for numbers in zip(*(u[1:-2] for u in usages), strict=True)), cost_usd, list_usd, saved_usd)


def _order(by: By) -> Any:  # noqa: ANN401  what sorts rows
    if by == "day":
        return lambda row: row[:2]
    return lambda row: (row[0], -(inf if row[-3] is None else row[-3]), row[1])


def sum_up_later(store: Store, shard: Shard) -> None:
    """Record what the models have answered in a shard that was collected by a version that did not.

    Where its results are missing, all is taken for answers of the model that its job names.
    """
    share = BATCH_DISCOUNT if shard.batch_id else LIST_PRICE
    spending = Spending(PriceList(datetime.now(UTC), store=store.path, share=share))
    path = store.results_path(shard.results_id)
    try:
        with reading(path):
            with open_parquet(path) as file:
                columns = SPENDING_COLUMNS & set(file.schema_arrow.names)
            for _, batch in read_batches(path, columns):
                spending.add(batch)
    except StoreError:
        spending.models = {"": _whole(store, shard, share)}
    store.ledger.record_usage(shard.shard, spending.models.values())


def _whole(store: Store, shard: Shard, share: float) -> ModelUsage:
    model = Settings.of(store.ledger.planner_of(shard)).model
    cost, tokens = shard.cost_usd, (shard.input_tokens, shard.output_tokens)
    cached = shard.cache_read_tokens, shard.cache_write_tokens
    return ModelUsage(model, shard.succeeded, *tokens, *cached, cost, None if cost is None else cost / share)
