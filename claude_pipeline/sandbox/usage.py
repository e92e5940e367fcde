"""What was accepted and what was billed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from claude_pipeline.sandbox.answers import Answer
from claude_pipeline.sandbox.journal import Billed
from claude_pipeline.sandbox.outcomes import Outcome, Row


@dataclass(slots=True)
class Tally:
    """Count requests and answers over all batches, deleted ones too."""

    batches: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    messages: Billed = field(default_factory=Billed)
    received: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)

    def receive(self, custom_id: str) -> int:
        """Count a request and return how often its id has been received by now."""
        self.received[custom_id] += 1
        return self.received[custom_id]

    def bill(self, rows: Sequence[Row], outcomes: Sequence[Outcome]) -> None:
        """Count the answers of a batch that ended; only they are billed."""
        for row, outcome in zip(rows, outcomes, strict=True):
            if isinstance(outcome, Answer):
                self.answered[row.custom_id] += 1
                self.input_tokens += outcome.input_tokens
                self.output_tokens += outcome.output_tokens

    def bill_message(self, answer: Answer) -> Billed:
        """Count an answer outside of batches, and return the sum of all these."""
        self.messages = Billed(
            messages=self.messages.messages + 1,
            input_tokens=self.messages.input_tokens + answer.input_tokens,
            output_tokens=self.messages.output_tokens + answer.output_tokens,
        )
        return self.messages

    def show(self) -> dict[str, int]:
        """Show the counts as `/_sandbox/usage` does."""
        return {
            "batches": self.batches,
            "requests_accepted": self.received.total(),
            "distinct_requests": len(self.received),
            "answers_billed": self.answered.total(),
            "answers_billed_twice": sum(times > 1 for times in self.answered.values()),
            "input_tokens": self.input_tokens + self.messages.input_tokens,
            "output_tokens": self.output_tokens + self.messages.output_tokens,
            "messages": self.messages.messages,
        }
