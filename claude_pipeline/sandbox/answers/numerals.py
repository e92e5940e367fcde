"""Numbers within the bounds of a JSON schema."""

from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from math import ceil, floor
from random import Random
from sys import float_info
from typing import Final, NamedTuple

from claude_pipeline.sandbox.answers.schemas import Schema, UnfittableError

USUAL_SPAN: Final = 100
LARGEST_INTEGER: Final = 2**53
HUNDREDTH: Final = Fraction(1, 100)
TRIES: Final = 50
_KEYS: Final = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "multipleOf")


def draw_number(schema: Schema, *, integer: bool, random: Random) -> float:
    """Return a number of the schema's bounds and multiples.

    Raises:
        UnfittableError: There is none.
    """
    grid = _grid(*map(schema.get, _KEYS), integer=integer)
    for factor in _factors(grid.first, grid.last, random):
        exact = factor * grid.numerator
        number = exact // grid.denominator if integer else exact / grid.denominator
        if _fits(number, schema):
            return number
    raise UnfittableError


class _Grid(NamedTuple):
    """The numbers `factor * numerator / denominator`, for factors from the first to the last."""

    first: int
    last: int
    numerator: int
    denominator: int


# The same schema comes with every row, and fractions are slow.
@lru_cache(1_000, typed=True)
def _grid(*bounds: float | None, integer: bool) -> _Grid:
    schema = {key: bound for key, bound in zip(_KEYS, bounds, strict=True) if bound is not None}
    low, high = _span(schema, integer=integer)
    step = _step(schema, low, high, integer=integer)
    return _Grid(ceil(low / step), floor(high / step), step.numerator, step.denominator)


def _span(schema: Schema, *, integer: bool) -> tuple[Fraction, Fraction]:
    lows = [Fraction(schema[key]) for key in ("minimum", "exclusiveMinimum") if key in schema]
    highs = [Fraction(schema[key]) for key in ("maximum", "exclusiveMaximum") if key in schema]
    span = max(Fraction(USUAL_SPAN), USUAL_SPAN * Fraction(str(schema.get("multipleOf", 1))))
    low = max(lows, default=min(Fraction(0), min(highs, default=span) - span))
    high = min(highs, default=max(low, Fraction(0)) + span)
    largest = Fraction(LARGEST_INTEGER if integer else float_info.max)
    return max(low, -largest), min(high, largest)


def _step(schema: Schema, low: Fraction, high: Fraction, *, integer: bool) -> Fraction:
    if "multipleOf" in schema:
        multiple = Fraction(str(schema["multipleOf"]))
        return Fraction(multiple.numerator) if integer else multiple
    if integer:
        return Fraction(1)
    if high - low >= 1 or low >= high:
        return HUNDREDTH if low < high else abs(low) or HUNDREDTH
    return (high - low) / USUAL_SPAN


def _factors(first: int, last: int, random: Random) -> Iterator[int]:
    if first > last:
        return
    for _ in range(TRIES):
        yield random.randint(first, last)
    yield from range(first, min(last, first + TRIES) + 1)
    if first <= 0 <= last:
        yield 0


def _fits(number: float, schema: Schema) -> bool:
    return (
        number >= schema.get("minimum", number)
        and number <= schema.get("maximum", number)
        and ("exclusiveMinimum" not in schema or number > schema["exclusiveMinimum"])
        and ("exclusiveMaximum" not in schema or number < schema["exclusiveMaximum"])
        and _is_multiple(number, schema.get("multipleOf"))
    )


def _is_multiple(number: float, step: float | None) -> bool:
    if step is None:
        return True
    # Validators divide as floats do; 0.07 is no multiple of 0.01 to them.
    try:
        return (number / step).is_integer()
    except OverflowError:
        return False
