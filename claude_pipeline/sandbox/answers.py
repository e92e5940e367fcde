"""What the sandbox answers: deterministic, and derived from the request alone."""

import re
from collections.abc import Callable
from typing import Any, Final, Literal

from msgspec import Struct

from claude_pipeline.sandbox.params import Params
from claude_pipeline.sandbox.wire import Message, TextBlock, Usage, content_id

AnswerFunction = Callable[[dict[str, Any]], str]

CHARACTERS_A_TOKEN: Final = 4
LONGEST_SENTENCE: Final = 2_000
UNREAD: Final = frozenset({"type", "role", "source", "id", "tool_use_id", "cache_control"})
SENTENCE_END: Final = re.compile(r"[.!?](?=\s|$)|(?=\n\s*\n)")


class Answer(Struct, frozen=True, gc=False):
    """What a message needs beyond its request; kept small, there is one a row."""

    text: str
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence"]
    stop_sequence: str | None
    model: str
    input_tokens: int
    output_tokens: int

    def message(self, request: bytes | bytearray, *, service_tier: Literal["standard", "batch"]) -> Message:
        """Show the answer as the API's message; the bytes of its request give it its id."""
        usage = Usage(input_tokens=self.input_tokens, output_tokens=self.output_tokens, service_tier=service_tier)
        return Message(
            id=content_id("msg", request, self.text.encode()),
            model=self.model,
            content=(TextBlock(text=self.text),),
            stop_reason=self.stop_reason,
            stop_sequence=self.stop_sequence,
            usage=usage,
        )


def answer(params: dict[str, Any], *, write: AnswerFunction) -> Answer:
    """Answer checked parameters with what `write` says, cut as the parameters ask."""
    text, stop_sequence = _cut_at_stop_sequence(write(params), params.get("stop_sequences"))
    longest = params["max_tokens"] * CHARACTERS_A_TOKEN
    cut = len(text) > longest
    stopped: Literal["end_turn", "stop_sequence"] = "end_turn" if stop_sequence is None else "stop_sequence"
    return Answer(
        text=text[:longest],
        stop_reason="max_tokens" if cut else stopped,
        stop_sequence=None if cut else stop_sequence,
        model=params["model"],
        input_tokens=input_tokens(params),
        output_tokens=_tokens(min(len(text), longest)),
    )


def facts(params: Params) -> str:
    """Answer with the first sentence of the last user turn, or its first paragraph if that is shorter."""
    asked = [turn["content"] for turn in params["messages"] if turn["role"] == "user"]
    text = "\n".join(_texts(asked[-1])).strip()[:LONGEST_SENTENCE]
    end = SENTENCE_END.search(text)
    return (text[: end.end()] if end else text) or "There is no text in this message."


def input_tokens(params: Params) -> int:
    """Estimate the tokens of a prompt: system, messages and tools."""
    parts = [turn["content"] for turn in params["messages"]]
    parts += [params[key] for key in ("system", "tools") if key in params]
    return _tokens(sum(len(text) for part in parts for text in _texts(part)))


def _tokens(characters: int) -> int:
    return max(1, characters // CHARACTERS_A_TOKEN)


def _cut_at_stop_sequence(text: str, stop_sequences: list[str] | None) -> tuple[str, str | None]:
    found = [(text.index(stop), stop) for stop in stop_sequences or () if stop in text]
    if not found:
        return text, None
    position, stop = min(found)
    return text[:position], stop


def _texts(content: object) -> list[str]:
    if isinstance(content, str):
        return [content]
    # A stack of our own: a client may nest as deeply as JSON can be read.
    found: list[str] = []
    left = [content]
    while left:
        match left.pop():
            case str(text):
                found.append(text)
            case list(parts):
                left.extend(reversed(parts))
            case dict(block):
                left.extend(block[key] for key in reversed(block) if key not in UNREAD)
    return found
