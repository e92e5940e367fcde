"""How long an answer takes, in real seconds."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from math import inf
from typing import Final

from claude_pipeline.sandbox.answers.reading import CHARACTERS_A_TOKEN

DELTA: Final = b"event: content_block_delta\n"
CHARACTERS_A_DELTA: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The seconds to the first token, and the tokens a second from there."""

    latency: float = 0.0
    tokens_per_second: float = inf

    def __post_init__(self) -> None:
        """Refuse what is no pace."""
        if not (self.latency >= 0 and self.tokens_per_second > 0):
            error = (
                f"An answer takes no negative time and comes at some speed: latency={self.latency}, "
                f"tokens_per_second={self.tokens_per_second}."
            )
            raise ValueError(error)

    @property
    def is_instant(self) -> bool:
        """Say whether nothing has to be waited for."""
        return self.latency == 0 and self.tokens_per_second == inf

    def seconds(self, output_tokens: int) -> float:
        """Return the seconds that a whole answer takes."""
        return self.latency + output_tokens / self.tokens_per_second

    async def hold(self, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the events of a stream when their time has come."""
        await asyncio.sleep(self.latency)
        async for event in events:
            if event.startswith(DELTA):
                await asyncio.sleep(CHARACTERS_A_DELTA / CHARACTERS_A_TOKEN / self.tokens_per_second)
            yield event
