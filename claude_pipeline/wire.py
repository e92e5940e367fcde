"""What the Message Batches API answers, as far as this library looks at it."""

from datetime import datetime
from typing import Annotated, Literal, TypeVar

import msgspec

from claude_pipeline.errors import ApiError

# It names a file: what could lead out of a folder is no id.
BatchId = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_-]{1,128}\Z")]
Time = Annotated[datetime, msgspec.Meta(tz=True)]


class Batch(msgspec.Struct, frozen=True):
    """A Message Batch. Times are RFC 3339."""

    id: BatchId
    processing_status: Literal["in_progress", "canceling", "ended"]
    request_counts: dict[str, int]
    created_at: Time
    ended_at: Time | None = None
    cancel_initiated_at: Time | None = None
    archived_at: Time | None = None
    results_url: str | None = None

    @property
    def requests(self) -> int:
        """How many requests the batch holds."""
        return sum(self.request_counts.values())

    @property
    def has_results(self) -> bool:
        """Whether the batch has ended and its results are still kept."""
        return self.processing_status == "ended" and not self.archived_at


class Page(msgspec.Struct):
    """A page of batches, the newest first."""

    data: list[Batch]
    has_more: bool = False


class TokenCount(msgspec.Struct):
    """How many input tokens a request has."""

    input_tokens: int


_T = TypeVar("_T")

encode = msgspec.json.Encoder().encode


def decode(content: bytes, kind: type[_T], *, host: str) -> _T:
    """Read what a host has answered.

    Raises:
        ApiError: It is nothing that the API would say.
    """
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(f"What came from {host} is not the API's ({error}).") from error
