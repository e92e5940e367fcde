"""What the API sends, key for key; an absent value is null, never a missing key."""

from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from mmap import mmap
from typing import Literal

from msgspec import Struct

from claude_pipeline.sandbox.blocks import Block

ProcessingStatus = Literal["in_progress", "canceling", "ended"]
ServiceTier = Literal["standard", "batch"]
Bytes = bytes | bytearray | mmap
StopReason = Literal[
    "end_turn",
    "max_tokens",
    "stop_sequence",
    "tool_use",
    "pause_turn",
    "refusal",
    "model_context_window_exceeded",
]


class RequestCounts(Struct, frozen=True, kw_only=True):
    """Requests of a batch by where they stand."""

    processing: int = 0
    succeeded: int = 0
    errored: int = 0
    canceled: int = 0
    expired: int = 0


class MessageBatch(Struct, frozen=True, kw_only=True):
    """A batch as the API shows it."""

    id: str
    type: Literal["message_batch"] = "message_batch"
    processing_status: ProcessingStatus
    request_counts: RequestCounts
    ended_at: str | None
    created_at: str
    expires_at: str
    archived_at: str | None
    cancel_initiated_at: str | None
    results_url: str | None


class CacheCreation(Struct, frozen=True, gc=False):
    """Tokens written to the cache, by how long they are kept."""

    ephemeral_5m_input_tokens: int = 0
    ephemeral_1h_input_tokens: int = 0


class OutputTokensDetails(Struct, frozen=True, gc=False):
    """Tokens of an answer by what they were written for."""

    thinking_tokens: int


class Usage(Struct, frozen=True, gc=False, kw_only=True):
    """What a message is billed for."""

    input_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation: CacheCreation = CacheCreation()
    output_tokens: int
    output_tokens_details: OutputTokensDetails | None = None
    service_tier: ServiceTier = "standard"
    server_tool_use: None = None
    inference_geo: None = None
    speed: None = None


class StopDetails(Struct, frozen=True, gc=False, kw_only=True):
    """Why an answer was refused."""

    type: Literal["refusal"] = "refusal"
    category: str | None = None
    explanation: str | None = None


class Message(Struct, frozen=True, gc=False, kw_only=True):
    """A message as the API shows it."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: Sequence[Block]
    stop_reason: StopReason | None
    stop_sequence: str | None
    stop_details: StopDetails | None = None
    container: None = None
    diagnostics: None = None
    usage: Usage


class Succeeded(Struct, frozen=True, gc=False, tag_field="type", tag="succeeded"):
    """The result of a request that was answered."""

    message: Message


class Errored(Struct, frozen=True, gc=False, tag_field="type", tag="errored"):
    """The result of a request that failed."""

    error: dict[str, object]


class Canceled(Struct, frozen=True, gc=False, tag_field="type", tag="canceled"):
    """The result of a request whose batch was canceled first."""


class Expired(Struct, frozen=True, gc=False, tag_field="type", tag="expired"):
    """The result of a request that was not reached within 24 hours."""


class ResultLine(Struct, frozen=True, gc=False):
    """One line of a results file."""

    custom_id: str
    result: Succeeded | Errored | Canceled | Expired


def timestamp(seconds: float) -> str:
    """Write seconds since the epoch as RFC 3339 with microseconds."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def content_id(prefix: str, *content: Bytes) -> str:
    """Derive an id of the API's look from content."""
    digest = blake2b(digest_size=11)
    for part in content:
        digest.update(part)
    return f"{prefix}_01{digest.hexdigest()}"
