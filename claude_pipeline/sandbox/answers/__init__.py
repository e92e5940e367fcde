"""What the sandbox answers: deterministic, and derived from the request alone."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from claude_pipeline.sandbox.answers.cutting import (
    cut_at_stop_sequence,
    cut_at_tokens,
    cut_text_at_stop_sequence,
    length_of,
)
from claude_pipeline.sandbox.answers.reading import CHARACTERS_A_TOKEN, input_tokens, tokens
from claude_pipeline.sandbox.answers.thinking import hidden, is_hidden, think, thinking_tokens
from claude_pipeline.sandbox.answers.writing import AnswerNameError, answer_function, echo, facts
from claude_pipeline.sandbox.answers.written import AnswerError, AnswerFunction, Written, ask
from claude_pipeline.sandbox.blocks import Block, TextBlock, ThinkingBlock, ToolUseBlock
from claude_pipeline.sandbox.params import Params
from claude_pipeline.sandbox.wire import (
    Bytes,
    CacheCreation,
    Message,
    OutputTokensDetails,
    ServiceTier,
    StopDetails,
    StopReason,
    Usage,
    content_id,
)

__all__ = [
    "Answer",
    "AnswerError",
    "AnswerFunction",
    "AnswerNameError",
    "CacheUse",
    "answer",
    "answer_function",
    "echo",
    "facts",
    "input_tokens",
    "refused",
    "truncated",
    "with_cache",
]

REFUSAL: Final = StopDetails(
    category="general_harms",
    explanation="The sandbox was asked to refuse this request.",
)


class CacheUse(Struct, frozen=True, gc=False):
    """Tokens of a prompt that were read from the cache or written to it."""

    read: int = 0
    created: CacheCreation = CacheCreation()

    @property
    def written(self) -> int:
        """Count what was written, however long it is kept."""
        return self.created.ephemeral_5m_input_tokens + self.created.ephemeral_1h_input_tokens


NO_CACHE: Final = CacheUse()


class Content(Struct, frozen=True, gc=False, kw_only=True):
    """What an answer consists of when it is not one plain text."""

    blocks: Sequence[Block]
    thinking_tokens: int | None = None
    stop_details: StopDetails | None = None
    cache: CacheUse = NO_CACHE


class Answer(Struct, frozen=True, gc=False):
    """What a message needs beyond its request; kept small, there is one a row.

    `input_tokens` are those that the cache has no part in.
    """

    content: str | Content
    stop_reason: StopReason
    stop_sequence: str | None
    model: str
    input_tokens: int
    output_tokens: int

    @property
    def cache(self) -> CacheUse:
        """Say which other tokens of the prompt were read from the cache or written to it."""
        return NO_CACHE if isinstance(self.content, str) else self.content.cache

    def message(self, request: Bytes, *, service_tier: ServiceTier) -> Message:
        """Show the answer as the API's message; the bytes of its request give it its id."""
        if not isinstance(self.content, str):
            return _message(self, self.content, request, service_tier=service_tier)
        usage = Usage(input_tokens=self.input_tokens, output_tokens=self.output_tokens, service_tier=service_tier)
        return Message(
            id=content_id("msg", request, self.content.encode()),
            model=self.model,
            content=(TextBlock(text=self.content),),
            stop_reason=self.stop_reason,
            stop_sequence=self.stop_sequence,
            usage=usage,
        )


def answer(params: dict[str, Any], *, write: AnswerFunction) -> Answer:
    """Answer checked parameters with what `write` says, cut as the parameters ask.

    Raises:
        AnswerError: `write` raised, or returned what is no answer.
    """
    written = ask(write, params)
    if isinstance(written, Written):
        return _answer(params, written)
    if "thinking" in params or not params["max_tokens"]:
        return _answer(params, Written([TextBlock(text=written)]))
    return _plain(params, written)


def refused(answer: Answer) -> Answer:
    """Return what the API sends when it refuses: no content, and why."""
    content = Content(blocks=(), stop_details=REFUSAL, cache=answer.cache)
    return replace(answer, content=content, stop_reason="refusal", stop_sequence=None, output_tokens=1)


def truncated(answer: Answer) -> Answer:
    """Return the answer cut at half of what it shows, as if `max_tokens` had been reached there."""
    content = _content(answer)
    shown = tokens(sum(map(length_of, content.blocks)))
    blocks, _ = cut_at_tokens(content.blocks, most := max(1, shown // 2))
    return replace(
        answer,
        content=replace(content, blocks=blocks, stop_details=None),
        stop_reason="max_tokens",
        stop_sequence=None,
        output_tokens=answer.output_tokens - shown + most,
    )


def with_cache(answer: Answer, cache: CacheUse) -> Answer:
    """Return the answer with the tokens of its prompt shared out."""
    rest = max(0, answer.input_tokens - cache.read - cache.written)
    return replace(answer, content=replace(_content(answer), cache=cache), input_tokens=rest)


def _plain(params: Params, text: str) -> Answer:
    text, stop_sequence = cut_text_at_stop_sequence(text, params.get("stop_sequences"))
    stop_reason: StopReason = "end_turn" if stop_sequence is None else "stop_sequence"
    longest = params["max_tokens"] * CHARACTERS_A_TOKEN
    if len(text) > longest:
        text, stop_reason, stop_sequence = text[:longest], "max_tokens", None
    return Answer(text, stop_reason, stop_sequence, params["model"], input_tokens(params), tokens(len(text)))


def _answer(params: Params, written: Written) -> Answer:
    blocks, stop_sequence = cut_at_stop_sequence(_thoughtful(params, written.content), params.get("stop_sequences"))
    blocks, cut = cut_at_tokens(blocks, params["max_tokens"])
    usual = _usual_stop_reason(written, blocks) if stop_sequence is None else "stop_sequence"
    return Answer(
        Content(
            blocks=[*map(hidden, blocks)] if is_hidden(params) else blocks,
            thinking_tokens=thinking_tokens(blocks),
            stop_details=written.stop_details,
        ),
        "max_tokens" if cut else usual,
        None if cut else stop_sequence or written.stop_sequence,
        params["model"],
        input_tokens(params),
        params["max_tokens"] if cut else tokens(sum(map(length_of, blocks))),
    )


def _thoughtful(params: Params, blocks: Sequence[Block]) -> Sequence[Block]:
    if any(isinstance(block, ThinkingBlock) for block in blocks):
        return blocks
    thoughts = think(params)
    return blocks if thoughts is None else [thoughts, *blocks]


def _usual_stop_reason(written: Written, blocks: Sequence[Block]) -> StopReason:
    if written.stop_reason is not None:
        return written.stop_reason
    if written.stop_sequence is not None:
        return "stop_sequence"
    return "tool_use" if any(isinstance(block, ToolUseBlock) for block in blocks) else "end_turn"


def _content(answer: Answer) -> Content:
    return Content(blocks=[TextBlock(text=answer.content)]) if isinstance(answer.content, str) else answer.content


def _message(answer: Answer, content: Content, request: Bytes, *, service_tier: ServiceTier) -> Message:
    blocks = [_identified(block, request, index) for index, block in enumerate(content.blocks)]
    return Message(
        id=content_id("msg", request, msgspec.json.encode(blocks)),
        model=answer.model,
        content=blocks,
        stop_reason=answer.stop_reason,
        stop_sequence=answer.stop_sequence,
        stop_details=content.stop_details,
        usage=_usage(answer, content, service_tier=service_tier),
    )


def _identified(block: Block, request: Bytes, index: int) -> Block:
    if not isinstance(block, ToolUseBlock) or block.id:
        return block
    return replace(block, id=content_id("toolu", request, f"{index} {block.name}".encode()))


def _usage(answer: Answer, content: Content, *, service_tier: ServiceTier) -> Usage:
    thought = content.thinking_tokens
    return Usage(
        input_tokens=answer.input_tokens,
        cache_creation_input_tokens=content.cache.written,
        cache_read_input_tokens=content.cache.read,
        cache_creation=content.cache.created,
        output_tokens=answer.output_tokens,
        output_tokens_details=None if thought is None else OutputTokensDetails(thought),
        service_tier=service_tier,
    )
