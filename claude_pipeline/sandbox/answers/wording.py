"""Strings that fit a JSON schema, made of a prompt's words where they may be."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from random import Random
from typing import Final
from uuid import UUID

from claude_pipeline.sandbox.answers.patterns import draw_match, is_match
from claude_pipeline.sandbox.answers.schemas import Schema, UnfittableError

MOST_WORDS: Final = 4
TRIES: Final = 20
LONGEST: Final = 100_000
FIRST_DAY: Final = datetime(2020, 1, 1, tzinfo=UTC)
TEN_YEARS: Final = 10 * 365 * 24 * 60 * 60
PUNCTUATION: Final = ".,;:!?\"'()[]{}"
NOT_A_NAME: Final = re.compile(r"[^a-z0-9]+")


def draw_string(schema: Schema, *, random: Random, words: Sequence[str]) -> str:
    """Return a string of the schema's format, pattern and length; where no pattern is met, a phrase.

    Raises:
        UnfittableError: No string is that long.
    """
    least: int = schema.get("minLength", 0)
    most: int = schema.get("maxLength", LONGEST)
    if least > min(most, LONGEST):
        raise UnfittableError
    usual = _phrase(words, random=random)
    usual = (usual + " ") * (least // (len(usual) + 1)) + usual
    for text in _candidates(schema, random, words):
        if least <= len(text) <= most and is_match(schema.get("pattern"), text):
            return text
    return usual[:most]


def _candidates(schema: Schema, random: Random, words: Sequence[str]) -> Iterator[str]:
    if "format" in schema and (draw := _FORMATS.get(schema["format"])):
        yield draw(random, words)
    if "pattern" in schema:
        yield from (text for _ in range(TRIES) if (text := draw_match(schema["pattern"], random=random)) is not None)


def _phrase(words: Sequence[str], *, random: Random) -> str:
    first = random.randrange(max(1, len(words)))
    return " ".join(words[first : first + random.randint(1, MOST_WORDS)]).strip(PUNCTUATION) or "text"


def _name(random: Random, words: Sequence[str]) -> str:
    return NOT_A_NAME.sub("-", _phrase(words, random=random).lower())[:30].strip("-") or "name"


def _moment(random: Random) -> datetime:
    return FIRST_DAY + timedelta(seconds=random.randrange(TEN_YEARS))


_FORMATS: Final[Mapping[str, Callable[[Random, Sequence[str]], str]]] = {
    "date": lambda random, _words: f"{_moment(random):%Y-%m-%d}",
    "time": lambda random, _words: f"{_moment(random):%H:%M:%SZ}",
    "date-time": lambda random, _words: f"{_moment(random):%Y-%m-%dT%H:%M:%SZ}",
    "duration": lambda random, _words: f"PT{random.randint(1, 90)}M",
    "email": lambda random, words: f"{_name(random, words)}@example.com",
    "hostname": lambda random, words: f"{_name(random, words)}.example.com",
    "uri": lambda random, words: f"https://example.com/{_name(random, words)}",
    "uuid": lambda random, _words: str(UUID(int=random.getrandbits(128), version=4)),
    "ipv4": lambda random, _words: str(IPv4Address(random.getrandbits(32))),
    "ipv6": lambda random, _words: str(IPv6Address(random.getrandbits(128))),
}
