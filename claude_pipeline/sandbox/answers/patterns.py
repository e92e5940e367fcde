"""Strings that match a regular expression of the everyday kind."""

import re
import string
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

Draw = Callable[[Random], str]

MOST_UNASKED: Final = 4
MOST_REPEATS: Final = 1_000
WORD: Final = string.ascii_lowercase + string.digits
PRINTABLE: Final = string.ascii_letters + string.digits + string.punctuation + " "
CLASSES: Final = {"d": string.digits, "w": WORD, "s": " "}
CONTROLS: Final = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v"}
CODES: Final = {"x": 2, "u": 4}
COUNTED: Final = re.compile(r"\{(\d+)(?:(,)(\d*))?\}")
GROUP: Final = re.compile(r"\((?:\?:|\?P?<\w+>)?(?!\?)")


class UnreadableError(Exception):
    """The pattern uses what is not read here."""


def draw_match(pattern: str, *, random: Random) -> str | None:
    """Return a string that should match, or None if the pattern is not of the kind that is read here."""
    try:
        return _Reader(pattern).whole()(random)
    except (UnreadableError, RecursionError):
        return None


def is_match(pattern: str | None, text: str) -> bool:
    """Say whether the text matches; a pattern that Python cannot read is met by all."""
    try:
        return pattern is None or re.search(pattern, text) is not None
    except (re.error, RecursionError, OverflowError):
        return True


class _Reader:
    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    def whole(self) -> Draw:
        draw = self._alternatives()
        if self._at < len(self._pattern):
            raise UnreadableError
        return draw

    def _alternatives(self) -> Draw:
        options = [self._sequence()]
        while self._take("|"):
            options.append(self._sequence())
        return lambda random: random.choice(options)(random)

    def _sequence(self) -> Draw:
        parts: list[Draw] = []
        while self._at < len(self._pattern) and self._pattern[self._at] not in "|)":
            if not (self._take("^") or self._take("$")):
                parts.append(self._repeated(self._atom()))
        return lambda random: "".join(part(random) for part in parts)

    def _atom(self) -> Draw:
        if group := GROUP.match(self._pattern, self._at):
            self._at = group.end()
            draw = self._alternatives()
            self._expect(")")
            return draw
        if self._take("["):
            return _any_of(self._set())
        if self._take("."):
            return _any_of(WORD)
        return _any_of(self._characters(special="?*+{}()"))

    def _repeated(self, draw: Draw) -> Draw:
        least, most = self._quantifier()
        self._take("?")
        if max(least, most) > MOST_REPEATS:
            raise UnreadableError
        return lambda random: "".join(draw(random) for _ in range(random.randint(least, most)))

    def _quantifier(self) -> tuple[int, int]:
        for sign, least, most in (("?", 0, 1), ("*", 0, MOST_UNASKED), ("+", 1, MOST_UNASKED)):
            if self._take(sign):
                return least, most
        if not (found := COUNTED.match(self._pattern, self._at)):
            return 1, 1
        self._at = found.end()
        least = int(found[1])
        open_end = least + MOST_UNASKED if found[2] else least
        return least, max(least, int(found[3])) if found[3] else open_end

    def _set(self) -> str:
        negated, members = self._take("^"), ""
        while not self._take("]"):
            members += self._range(self._characters(special=""))
        if negated:
            members = "".join(character for character in WORD + PRINTABLE if character not in members)
        return members

    def _range(self, first: str) -> str:
        if self._pattern[self._at : self._at + 1] != "-" or self._pattern[self._at + 1 : self._at + 2] in {"]", ""}:
            return first
        self._at += 1
        last = self._characters(special="")
        if len(first) != 1 or len(last) != 1:
            raise UnreadableError
        return "".join(map(chr, range(ord(first), min(ord(last), ord(first) + MOST_REPEATS) + 1)))

    def _characters(self, *, special: str) -> str:
        if not self._take("\\"):
            return self._next(special=special)
        escaped = self._next(special="")
        if escaped in CODES:
            return self._code(CODES[escaped])
        if escaped in CLASSES:
            return CLASSES[escaped]
        if escaped.lower() in CLASSES:
            return "".join(character for character in PRINTABLE if character not in CLASSES[escaped.lower()])
        if escaped.isalnum() and escaped not in CONTROLS:
            raise UnreadableError
        return CONTROLS.get(escaped, escaped)

    def _code(self, digits: int) -> str:
        code = self._pattern[self._at : self._at + digits]
        self._at += digits
        if len(code) < digits or not set(code) <= set(string.hexdigits):
            raise UnreadableError
        return chr(int(code, 16))

    def _next(self, *, special: str) -> str:
        if self._at >= len(self._pattern) or self._pattern[self._at] in special:
            raise UnreadableError
        self._at += 1
        return self._pattern[self._at - 1]

    def _take(self, sign: str) -> bool:
        found = self._pattern.startswith(sign, self._at)
        self._at += found
        return found

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            raise UnreadableError


def _any_of(characters: Sequence[str]) -> Draw:
    if not characters:
        raise UnreadableError
    return lambda random: random.choice(characters)
