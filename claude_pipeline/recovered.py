"""What a recovery has read back, as data and as text."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from claude_pipeline.display import columns, count, plural, usd
from claude_pipeline.status import total_usd

HEADER = ("BATCH", "SENT", "ANSWERS", "COST", "PAID TWICE")


@dataclass(frozen=True, slots=True)
class RecoveredBatch:
    """A batch that was read back.

    Attributes:
        job_id: The job that shows it.
        created_at: When it was sent; seconds since the epoch.
        requests: How many it held.
        answers: How many of them were answered.
        regained: Answers that the store did not have.
        cost_usd: What the batch had cost; None without a known price.
        paid_twice: Answers to requests that another batch has answered as well.
        paid_twice_usd: What these had cost.
    """

    batch_id: str
    job_id: str
    created_at: float
    requests: int
    answers: int
    regained: int
    cost_usd: float | None
    paid_twice: int
    paid_twice_usd: float | None

    def cells(self) -> tuple[str, ...]:
        """Return its cells under `HEADER`; the day is local."""
        sent = datetime.fromtimestamp(self.created_at).astimezone().strftime("%Y-%m-%d")
        twice = _price(self.paid_twice_usd) if self.paid_twice else "-"
        return self.batch_id, sent, count(self.answers), _price(self.cost_usd), twice


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a store has regained, or would.

    Attributes:
        account: Whose batches they are.
        is_rehearsal: Whether nothing was recorded.
        batches: Those that were read back, the oldest first.
        known: How many batches the store had already, or waits for.
        running: How many others have not ended.
        strangers: How many belong to others in the workspace: their ids are not made by this library.
        notes: What was left alone, and the way out.
    """

    account: str
    is_rehearsal: bool
    batches: tuple[RecoveredBatch, ...]
    known: int
    running: int
    strangers: int
    notes: tuple[str, ...]

    @property
    def regained(self) -> int:
        """Answers that the store did not have."""
        return sum(batch.regained for batch in self.batches)

    @property
    def cost_usd(self) -> float | None:
        """What the batches had cost, in dollars; None without a known price."""
        return total_usd(batch.cost_usd for batch in self.batches)

    @property
    def paid_twice(self) -> int:
        """Answers to requests that another batch has answered as well."""
        return sum(batch.paid_twice for batch in self.batches)

    @property
    def paid_twice_usd(self) -> float | None:
        """What these had cost, in dollars; None without a known price."""
        return total_usd(batch.paid_twice_usd for batch in self.batches)

    def __str__(self) -> str:
        table = [*columns([HEADER, *(batch.cells() for batch in self.batches)]), ""] if self.batches else []
        return "\n".join([*table, *self.sentences()])

    def sentences(self) -> Iterator[str]:
        """Yield what came of it, a line each."""
        verb = "Would regain" if self.is_rehearsal else "Regained"
        if self.batches:
            batches = plural(len(self.batches), "batch")
            yield f"{verb} {plural(self.regained, 'answer')} from {batches} that had cost {_price(self.cost_usd)}."
        else:
            yield f"Nothing to regain: account {self.account} has no ended batch of ours that this store lacks."
        if self.regained and not self.is_rehearsal:
            yield "The same submit as then finds them here, and sends only what has no answer."
        if self.paid_twice:
            yield f"Paid twice: {plural(self.paid_twice, 'answer')}, {_price(self.paid_twice_usd)}."
        others = [
            (self.known, "known to this store"),
            (self.running, "still running"),
            (self.strangers, "of other programs"),
        ]
        if told := ", ".join(f"{count(number)} {what}" for number, what in others if number):
            yield f"Left alone: {told}."
        yield from self.notes


def _price(amount: float | None) -> str:
    return usd(amount) or "?"
