"""The prompt cache: which tokens of a prompt were seen before."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, Literal

import msgspec

from claude_pipeline.sandbox.answers import Answer, CacheUse, with_cache
from claude_pipeline.sandbox.answers.reading import CHARACTERS_A_TOKEN, characters, is_plain
from claude_pipeline.sandbox.params import Params
from claude_pipeline.sandbox.wire import CacheCreation

Lifetime = Literal["5m", "1h"]

SECONDS: Final[Mapping[Lifetime, float]] = {"5m": 300.0, "1h": 3600.0}
BLOCKS_LOOKED_BACK: Final = 20
MOST_ENTRIES: Final = 100_000
USUAL_MINIMUM: Final = 1024
LATER_MINIMUM: Final = 4096
LATER_LINES: Final = frozenset({"haiku", "opus"})
LATER: Final = (4, 5)


@dataclass(frozen=True, slots=True)
class Prefix:
    """A prompt up to the end of a block; `lifetime` is set where a breakpoint is."""

    key: bytes
    tokens: int
    lifetime: Lifetime | None


class PromptCache:
    """Prefixes of prompts, by account and model; every `now` is seconds since the epoch."""

    def __init__(self) -> None:
        self._entries: dict[bytes, tuple[float, float]] = {}

    def charge(self, answer: Answer, params: Params, *, account: str, now: float) -> Answer:
        """Return the answer with what its prompt read from the cache and wrote to it; the cache remembers."""
        if not is_marked(params):
            return answer
        try:
            prefixes = [*_prefixes(params, account=account)]
        except RecursionError:
            # Read from a shallower stack than this one.
            return answer
        return with_cache(answer, self._use(prefixes, _minimum(params["model"]), now))

    def _use(self, prefixes: Sequence[Prefix], minimum: int, now: float) -> CacheUse:
        ends = [end for end, prefix in enumerate(prefixes) if prefix.lifetime and prefix.tokens >= minimum]
        read = max((self._read(prefixes[max(0, end - BLOCKS_LOOKED_BACK) : end + 1], now) for end in ends), default=0)
        created: dict[Lifetime, int] = {"5m": 0, "1h": 0}
        known = read
        for prefix in (prefixes[end] for end in ends):
            if prefix.lifetime and prefix.tokens > known:
                created[prefix.lifetime] += prefix.tokens - known
                known = prefix.tokens
                self._write(prefix.key, SECONDS[prefix.lifetime], now)
        return CacheUse(read, CacheCreation(created["5m"], created["1h"]))

    def _read(self, prefixes: Sequence[Prefix], now: float) -> int:
        for prefix in reversed(prefixes):
            until, seconds = self._entries.get(prefix.key, (now, 0.0))
            if until > now:
                self._entries[prefix.key] = now + seconds, seconds
                return prefix.tokens
        return 0

    def _write(self, key: bytes, seconds: float, now: float) -> None:
        if len(self._entries) >= MOST_ENTRIES:
            self._forget(now)
        self._entries[key] = now + seconds, seconds

    def _forget(self, now: float) -> None:
        live = [(key, entry) for key, entry in self._entries.items() if entry[0] > now]
        self._entries = dict(live[-MOST_ENTRIES // 2 :])


def is_marked(params: Params) -> bool:
    """Say whether the prompt marks anything for the cache."""
    if "cache_control" in params:
        return True
    if _has_mark(params.get("tools")) or _has_mark(params.get("system")):
        return True
    return not is_plain(params) and any(_has_mark(turn["content"]) for turn in params["messages"])


def _has_mark(part: object) -> bool:
    return isinstance(part, list) and any("cache_control" in block for block in part)


def _prefixes(params: Params, *, account: str) -> Iterator[Prefix]:
    blocks = [*_blocks(params)]
    lifetimes = [_lifetime(block.get("cache_control")) for _, block in blocks]
    lifetimes[-1] = lifetimes[-1] or _lifetime(params.get("cache_control"))
    digest, count = blake2b(msgspec.json.encode([account, params["model"]]), digest_size=16), 0
    for (part, block), lifetime in zip(blocks, lifetimes, strict=True):
        content = {key: value for key, value in block.items() if key != "cache_control"}
        digest.update(msgspec.json.encode([part, content]))
        count += characters(block)
        yield Prefix(digest.digest(), count // CHARACTERS_A_TOKEN, lifetime)


def _blocks(params: Params) -> Iterator[tuple[str, dict[str, Any]]]:
    for part in ("tools", "system"):
        yield from ((part, block) for block in _listed(params.get(part)))
    for turn in params["messages"]:
        yield from ((turn["role"], block) for block in _listed(turn["content"]))


def _listed(content: object) -> Sequence[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return content if isinstance(content, list) else []


def _lifetime(mark: object) -> Lifetime | None:
    if not isinstance(mark, dict):
        return None
    return "1h" if mark.get("ttl") == "1h" else "5m"


def _minimum(model: str) -> int:
    words = model.split("-")
    version = tuple(int(word) for word in words if word.isdecimal() and len(word) < len("2026"))
    return LATER_MINIMUM if LATER_LINES.intersection(words) and version >= LATER else USUAL_MINIMUM
