"""What the answers of a shard cost, model by model: added up while they are collected, or from their file."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isnan, nan

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from claude_pipeline.arrays import to_int64
from claude_pipeline.pricing import PriceList
from claude_pipeline.records import ModelUsage
from claude_pipeline.results import searches_of
from claude_pipeline.status import total_usd

_SUMS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
SPENDING_COLUMNS = {"result_type", "model", *_SUMS, "cost_usd", "line"}
_SEARCHES = "web_search_requests"


@dataclass(slots=True)
class Spending:
    """The sums over runs of results; what no model has answered has cost nothing."""

    prices: PriceList
    models: dict[str, ModelUsage] = field(default_factory=dict)

    def add(self, results: pa.RecordBatch) -> None:
        """Add results, in the columns of `RESULT_SCHEMA`."""
        searches = _searches(results)
        for usage in _sums(results):
            list_usd = self.prices.list_usd(usage.model, usage.cost_usd, searches=searches[usage.model])
            found = usage._replace(list_usd=list_usd)
            known = self.models.get(usage.model)
            self.models[usage.model] = _both(known, found) if known else found


def _sums(results: pa.RecordBatch) -> Iterator[ModelUsage]:
    """Yield the sums of each model; a cost among which one is not known is not known."""
    named = results.filter(pc.is_valid(results.column("model")))
    coded = named.column("model").dictionary_encode()
    places = to_int64(coded.indices.cast(pa.int64()))
    is_answer = [kind == "succeeded" for kind in named.column("result_type").to_pylist()]
    weights = [np.array(is_answer), *(np.nan_to_num(_numbers(named, name)) for name in _SUMS)]
    counts = [np.bincount(places, weight).astype(np.int64).tolist() for weight in weights]
    costs = [None if isnan(cost) else cost for cost in np.bincount(places, _numbers(named, "cost_usd")).tolist()]
    for model, *sums, cost_usd in zip(coded.dictionary.to_pylist(), *counts, costs, strict=True):
        yield ModelUsage._make([model, *sums, cost_usd, None])


def _numbers(results: pa.RecordBatch, name: str) -> npt.NDArray[np.float64]:
    return np.array(
        [nan if number is None else number for number in results.column(name).to_pylist()], dtype=np.float64
    )


def _searches(results: pa.RecordBatch) -> Counter[str]:
    """Count the web searches of each model, which have no discount."""
    found = Counter[str]()
    if "line" not in results.schema.names:
        return found
    some = results.filter(pc.match_substring(results.column("line"), _SEARCHES))
    for model, line in zip(some.column("model").to_pylist(), some.column("line").to_pylist(), strict=True):
        found[model] += searches_of(line)
    return found


def _both(one: ModelUsage, other: ModelUsage) -> ModelUsage:
    cost_usd = total_usd([one.cost_usd, other.cost_usd])
    list_usd = total_usd([one.list_usd, other.list_usd])
    return ModelUsage(
        one.model,
        one.answers + other.answers,
        one.input_tokens + other.input_tokens,
        one.output_tokens + other.output_tokens,
        one.cache_read_tokens + other.cache_read_tokens,
        one.cache_write_tokens + other.cache_write_tokens,
        cost_usd,
        list_usd,
    )
