"""What a rendered request weighs, told from its bytes alone: text, images, documents, and tokens at the most."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Raw

from claude_pipeline.pricing import PriceList, TokenUsage
from claude_pipeline.prompts import RequestForm, TextSlot

# On the safe side: English runs at about four bytes a token, and Anthropic's vision guide has no image above 4,784.
BYTES_PER_TOKEN, TOKENS_PER_IMAGE, TOKENS_PER_DOCUMENT = 2, 5_000, 200_000

_TOOLS_BYTES = 2_000  # beside tools the API puts a prompt of its own
_FRAME_TOKENS = 20
_MEDIA = ("image", "document")
_MARK, _HOUR = b'"cache_control":', b'"ttl":"1h"'  # quotes inside of a text are escaped
_CACHED_AS: Mapping[str | None, str] = {None: "input", "5m": "cache_write", "1h": "cache_write_1h"}


class Weight(msgspec.Struct, frozen=True, gc=False):
    """What a request weighs.

    Attributes:
        text_bytes: Bytes of its system prompt, tools, messages and schema as JSON, media apart.
        document_bytes: Bytes of its PDFs; of those that only a URL or an id names, as many as make the most tokens.
        turns: How many messages it has.
        lifetime: How long what it marks is cached, if it marks anything.
    """

    model: str
    max_tokens: int
    text_bytes: int
    images: int = 0
    document_bytes: int = 0
    turns: int = 1
    lifetime: Literal["5m", "1h"] | None = None

    @property
    def most_tokens(self) -> int:
        """Tokens of the prompt, on the safe side."""
        documents = self.document_bytes // BYTES_PER_TOKEN
        return _FRAME_TOKENS + self.text_bytes // BYTES_PER_TOKEN + TOKENS_PER_IMAGE * self.images + documents

    def worst_case_usd(self, prices: PriceList) -> float | None:
        """Return the most that a batch may charge for it, web searches apart; None for a model without a price.

        The answer is as long as `max_tokens` allows, and the cache holds nothing of what is to be cached.
        """
        usage = TokenUsage(output=self.max_tokens, **{_CACHED_AS[self.lifetime]: self.most_tokens})
        return prices.usd(self.model, usage)


class _Params(msgspec.Struct):
    model: str
    max_tokens: int
    messages: Raw
    system: Raw = Raw()
    tools: Raw = Raw()
    output_config: Raw = Raw()


class _Message(msgspec.Struct):
    content: Raw = Raw()


class _Block(msgspec.Struct):
    type: str = ""
    source: Raw = Raw()
    content: Raw = Raw()


class _Source(msgspec.Struct):
    type: str = ""
    data: Raw = Raw()
    content: Raw = Raw()


_decode_params = msgspec.json.Decoder(_Params).decode
_decode_messages = msgspec.json.Decoder(list[_Message]).decode
_decode_blocks = msgspec.json.Decoder(list[_Block]).decode
_decode_source = msgspec.json.Decoder(_Source).decode


def weigh(params: bytes) -> Weight:
    """Weigh the `params` of one request."""
    asked = _decode_params(params)
    messages = _decode_messages(asked.messages)
    media = [found for message in messages for found in _find_media(message.content)]
    text = sum(map(_size, (asked.system, asked.tools, asked.messages, asked.output_config)))
    return Weight(
        asked.model,
        asked.max_tokens,
        text - sum(size for _, size in media) + (_TOOLS_BYTES if _size(asked.tools) else 0),
        sum(kind == "image" for kind, _ in media),
        sum(_document_bytes(size) for kind, size in media if kind == "document"),
        len(messages),
        ("1h" if _HOUR in params else "5m") if _MARK in params else None,
    )


def _size(json: Raw) -> int:
    return len(memoryview(json))


def _find_media(content: Raw) -> Iterator[tuple[str, int]]:
    """Yield the images and documents of a message, however deep they are, and how many bytes of base64 each has."""
    if bytes(memoryview(content)[:1]) != b"[":
        return
    for block in _blocks(content):
        if block.type in _MEDIA and _size(block.source):
            yield from _read_source(block.type, _source(block.source))
        else:
            yield from _find_media(block.content)


def _blocks(content: Raw) -> Sequence[_Block]:
    try:
        return _decode_blocks(content)
    except msgspec.ValidationError:  # of a kind that holds neither images nor documents
        return ()


def _source(json: Raw) -> _Source:
    try:
        return _decode_source(json)
    except msgspec.ValidationError:  # of a kind that the API refuses, or that nobody knows yet
        return _Source()


def _read_source(kind: str, source: _Source) -> Iterator[tuple[str, int]]:
    match source.type:
        case "text":
            return
        case "content":
            yield from _find_media(source.content)
        case "base64":
            yield kind, _size(source.data)
        case _:
            yield kind, 0


def _document_bytes(size: int) -> int:
    most = TOKENS_PER_DOCUMENT * BYTES_PER_TOKEN
    return min(most, size // 4 * 3) if size else most


class Scales:
    """Weighs the requests of a form; where only their texts differ, their lengths say it all."""

    def __init__(self, form: RequestForm) -> None:
        self._is_plain = all(isinstance(part, bytes | TextSlot) for part in form.parts)
        self._first: tuple[Weight, int] | None = None

    def weigh(self, params: bytes) -> Weight:
        """Weigh the `params` of one request."""
        if not self._is_plain:
            return weigh(params)
        if self._first is None:
            first = weigh(params)
            self._first = first, len(params) - first.text_bytes
        first, rest = self._first
        return Weight(first.model, first.max_tokens, len(params) - rest, lifetime=first.lifetime)


def cached_prefix(params: Mapping[str, Any]) -> dict[str, Any]:
    """Keep of a request what its last `cache_control` marks in tools, system prompt and first message.

    Where that leaves no message the shortest one takes its place.
    """
    kept = dict(params, messages=[{"role": "user", "content": "."}])
    if beginning := _up_to_mark(params["messages"][0]["content"]):
        kept["messages"] = [{"role": "user", "content": beginning}]
    elif beginning := _up_to_mark(params.get("system")):
        kept["system"] = beginning
    else:
        kept.pop("system", None)
    return kept


def _up_to_mark(blocks: object) -> list[Any]:
    listed = blocks if isinstance(blocks, list) else []
    marked = [place for place, block in enumerate(listed, 1) if "cache_control" in block]
    return listed[: max(marked, default=0)]
