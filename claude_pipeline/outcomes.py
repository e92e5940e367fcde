"""What the results of a shard come to, added up while they are written."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow.compute as pc

from claude_pipeline.derived import AnswerOptions, Derived
from claude_pipeline.lines import Verdict
from claude_pipeline.pricing import PriceList
from claude_pipeline.records import FAILED
from claude_pipeline.results import Decoded
from claude_pipeline.spending import Spending
from claude_pipeline.status import rounded_usd, total_usd

# What the ledger sums up of a results file, and where it stands there.
_TOKENS = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_tokens": "cache_read_input_tokens",
    "cache_write_tokens": "cache_creation_input_tokens",
}

# Answers that are paid and may be of no use, and how they stopped.
_FLAGGED = {"truncated": "max_tokens", "refused": "refusal", "paused": "pause_turn"}


def typed_by(answers: AnswerOptions) -> Derived | None:
    """Return what types answers, if they have to fit something."""
    return Derived(answers) if answers.output_schema or answers.tool_schema else None


@dataclass(slots=True)
class Outcome:
    """What a shard came to.

    Attributes:
        prices: What its answers were priced at.
        typed: What types its answers, if they have to fit something.
        misfits: Answers that do not.
        unanswered: For a position, what it came to instead of an answer, and the verdict on that.
    """

    prices: PriceList
    typed: Derived | None = None
    tallies: Counter[str] = field(default_factory=Counter)
    stop_reasons: Counter[str] = field(default_factory=Counter)
    misfits: int = 0
    tokens: Counter[str] = field(default_factory=Counter)
    cost_usd: float | None = 0.0
    cache_saved_usd: float | None = 0.0
    unanswered: dict[int, tuple[str, Verdict]] = field(default_factory=dict)
    account_message: str = ""
    spending: Spending = field(init=False)

    def __post_init__(self) -> None:
        self.spending = Spending(self.prices)

    def add(self, first: int, decoded: Decoded) -> None:
        """Count a run of results whose first stands at a position of the shard."""
        batch, verdicts = decoded.batch, decoded.verdicts
        for counter, column in ((self.tallies, "result_type"), (self.stop_reasons, "stop_reason")):
            counter.update({row["values"]: row["counts"] for row in pc.value_counts(batch.column(column)).to_pylist()})
        for at in [at for at, verdict in enumerate(verdicts) if verdict != "succeeded"]:
            self.unanswered[first + at] = batch.column("result_type")[at].as_py(), verdicts[at]
            if verdicts[at] == "account":
                self.account_message = batch.column("error_message")[at].as_py()
        if self.typed:
            self.misfits += sum(error is not None for error in self.typed.derive(decoded.batch).errors)
        self._add_usage(decoded)

    def positions(self, verdict: Verdict) -> list[int]:
        """List the requests that were judged so."""
        return [position for position, (_, judged) in self.unanswered.items() if judged == verdict]

    def _add_usage(self, decoded: Decoded) -> None:
        self.spending.add(decoded.batch)
        for kind, column in _TOKENS.items():
            self.tokens[kind] += pc.sum(decoded.batch.column(column)).as_py() or 0
        costs = decoded.batch.column("cost_usd")
        spent = None if costs.null_count else pc.sum(costs).as_py() or 0.0
        self.cost_usd = total_usd([self.cost_usd, spent])
        self.cache_saved_usd = total_usd([self.cache_saved_usd, decoded.cache_saved_usd])

    def told(self) -> dict[str, object]:
        """Return what is logged of a shard that is done."""
        tallies = {kind: self.tallies[kind] for kind in ("succeeded", *FAILED)}
        return {**tallies, **{kind: self.tokens[kind] for kind in _TOKENS}, "cost_usd": rounded_usd(self.cost_usd)}

    def traced(self) -> dict[str, int | float | None]:
        """Return what a span tells of a shard that is done."""
        usage = {f"gen_ai__usage__{kind}": self.tokens[kind] for kind in ("input_tokens", "output_tokens")}
        return {**usage, "succeeded": self.tallies["succeeded"], "cost_usd": self.cost_usd}

    def recorded(self, failed: Mapping[int, str]) -> dict[str, object]:
        """Return what the ledger records of a shard that is done, whose requests at `failed` get no answer."""
        left = Counter(failed.values())
        tallies = {"succeeded": self.tallies["succeeded"], **{kind: left[kind] for kind in FAILED}}
        tallies |= {column: self.stop_reasons[reason] for column, reason in _FLAGGED.items()}
        tallies["misfits"] = self.misfits
        usd = {"cost_usd": self.cost_usd, "cache_saved_usd": self.cache_saved_usd}
        return {"state": "collected", "owner": None, "reason": None, **tallies, **self.tokens, **usd}
