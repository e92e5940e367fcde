"""What the answers of a shard cost, model by model: added up while they are collected, or from their file."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isnan

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from claude_pipeline.arrays import to_float64, to_int64
from claude_pipeline.lines import searches_of
from claude_pipeline.pricing import PriceList
from claude_pipeline.records import ModelUsage
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
    counted = results.select(["model", "result_type", *_SUMS, "cost_usd"])  # not the answers, which are large
    named = counted.filter(pc.is_valid(counted.column("model")))
    models, places = _coded(named.column("model"))
    kinds, coded = _coded(named.column("result_type"))
    is_answer = np.array([kind == "succeeded" for kind in kinds], dtype=bool)[coded]
    weights = [is_answer, *(np.nan_to_num(to_float64(named.column(name))) for name in _SUMS)]
    counts = [np.bincount(places, weight).astype(np.int64).tolist() for weight in weights]
    costs = [None if isnan(c) else c for c in np.bincount(places, to_float64(named.column("cost_usd"))).tolist()]
    for model, *sums, cost_usd in zip(models, *counts, costs, strict=True):
        yield ModelUsage._make([model, *sums, cost_usd, None])


def _coded(column: pa.Array) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Return the texts of a column, each once, and for each row which of them it is."""
    coded = column.dictionary_encode()
    return coded.dictionary.to_pylist(), to_int64(coded.indices.cast(pa.int64()))


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
