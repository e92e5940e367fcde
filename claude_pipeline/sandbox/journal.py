"""What happens to a sandbox, told so that another process can let it happen again."""

from collections.abc import Iterator, Sequence

from msgspec import Struct

from claude_pipeline.sandbox.outcomes import Unanswered
from claude_pipeline.sandbox.requests import Request
from claude_pipeline.sandbox.spool import Body


class _Event(Struct, frozen=True, tag_field="event", tag=str.lower):
    pass


class Created(_Event, frozen=True):
    """A batch was accepted; its body is kept with this."""

    batch_id: str
    at: float
    version: str
    workspace: str = "sandbox"


class Canceled(_Event, frozen=True):
    """A batch began to be canceled."""

    batch_id: str
    at: float


class Ended(_Event, frozen=True):
    """A batch ended; stopped early, a share was `done`, and `unfinished` is what became of the other requests."""

    batch_id: str
    at: float
    unfinished: Unanswered | None
    done: float = 0.0


class Deleted(_Event, frozen=True):
    """A batch was deleted."""

    batch_id: str


class Stepped(_Event, frozen=True):
    """The clock was stepped forward."""

    seconds: float


class Billed(_Event, frozen=True):
    """What all messages outside of batches were billed so far."""

    messages: int = 0
    input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    output_tokens: int = 0


Event = Created | Canceled | Ended | Deleted | Stepped | Billed


class Journal:
    """Keep nothing: a sandbox in memory."""

    def replay(self) -> Iterator[tuple[Event, Sequence[Request]]]:
        """Yield what happened so far, in order; with `Created` come the requests."""
        return iter(())

    def record(self, event: Event, body: Body = b"") -> None:
        """Keep an event, and with `Created` the body as it was received."""

    def announce(self, *, port: int, identity: str) -> None:
        """Tell other processes where this sandbox listens, and how to know it."""

    def close(self) -> None:
        """Leave the events to another process; nothing is recorded from here on."""
