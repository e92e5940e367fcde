"""What was accepted and what was billed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeGuard

from claude_pipeline.sandbox.answers import Answer
from claude_pipeline.sandbox.journal import Billed
from claude_pipeline.sandbox.outcomes import Outcome, Row

TOKENS: Final = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")


@dataclass(slots=True)
class Tally:
    """Count requests and answers over all batches, deleted ones too."""

    batches: int = 0
    messages: Billed = field(default_factory=Billed)
    received: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)

    def receive(self, custom_id: str) -> int:
        """Count a request and return how often its id has been received by now."""
        times = self.received[custom_id] = self.received.get(custom_id, 0) + 1
        return times

    def bill(self, rows: Sequence[Row], outcomes: Sequence[Outcome]) -> None:
        """Count the answers of a batch that ended; only they are billed."""
        billed = [(row.custom_id, answer) for row, answer in zip(rows, outcomes, strict=True) if _is_answer(answer)]
        self.answered.update(custom_id for custom_id, _ in billed)
        self.tokens.update(_tokens([answer for _, answer in billed]))

    def bill_message(self, answer: Answer) -> Billed:
        """Count an answer outside of batches, and return the sum of all these."""
        tokens = _tokens([answer])
        so_far = {name: getattr(self.messages, name) + tokens[name] for name in TOKENS}
        self.messages = Billed(messages=self.messages.messages + 1, **so_far)
        return self.messages

    def show(self) -> dict[str, int]:
        """Show the counts as `/_sandbox/usage` does."""
        return {
            "batches": self.batches,
            "requests_accepted": self.received.total(),
            "distinct_requests": len(self.received),
            "answers_billed": self.answered.total(),
            "answers_billed_twice": sum(times > 1 for times in self.answered.values()),
            **{name: self.tokens[name] + getattr(self.messages, name) for name in TOKENS},
            "messages": self.messages.messages,
        }


def _is_answer(outcome: Outcome) -> TypeGuard[Answer]:
    return isinstance(outcome, Answer)


def _tokens(answers: Sequence[Answer]) -> Counter[str]:
    uses = [answer.cache for answer in answers]
    return Counter(
        input_tokens=sum(answer.input_tokens for answer in answers),
        cache_creation_input_tokens=sum(use.written for use in uses),
        cache_read_input_tokens=sum(use.read for use in uses),
        output_tokens=sum(answer.output_tokens for answer in answers),
    )
