"""The thoughts before an answer."""

from base64 import b64encode
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

from msgspec.structs import replace

from claude_pipeline.sandbox.answers.reading import last_user_text, tokens
from claude_pipeline.sandbox.blocks import Block, ThinkingBlock
from claude_pipeline.sandbox.params import Params

WORTH_A_THOUGHT: Final = 200
QUOTED_WORDS: Final = 12


def think(params: Params) -> ThinkingBlock | None:
    """Think if the request asks for it; `adaptive` does not for a last turn of less than 200 characters."""
    match params.get("thinking"):
        case {"type": "enabled"}:
            return _thoughts(last_user_text(params), model=params["model"])
        case {"type": "adaptive"} if len(text := last_user_text(params)) >= WORTH_A_THOUGHT:
            return _thoughts(text, model=params["model"])
    return None


def is_hidden(params: Params) -> bool:
    """Say whether the request wants the signature without the thoughts."""
    thinking = params.get("thinking")
    return isinstance(thinking, dict) and thinking.get("display") == "omitted"


def hidden(block: Block) -> Block:
    """Return a block of thoughts without them; any other as it is."""
    return replace(block, thinking="") if isinstance(block, ThinkingBlock) else block


def thinking_tokens(blocks: Sequence[Block]) -> int | None:
    """Count the tokens of the thoughts, or return None without any."""
    thoughts = [len(block.thinking) for block in blocks if isinstance(block, ThinkingBlock)]
    return tokens(sum(thoughts)) if thoughts else None


def _thoughts(text: str, *, model: str) -> ThinkingBlock:
    words = text.split()
    quoted = " ".join(words[:QUOTED_WORDS])
    thinking = f'The last turn has {len(words)} words and begins: "{quoted}". I take the answer from what it says.'
    digest = blake2b(f"{model}\n{thinking}\n{text}".encode(errors="surrogatepass")).digest()
    return ThinkingBlock(thinking=thinking, signature=b64encode(digest).decode())
