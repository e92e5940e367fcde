"""What goes wrong in one run: faults of the API, kills and freezes, all chosen by a seed.

Times are seconds of the ledger's clock and of the sandbox's, which run `SPEED` times as fast as the wall's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Literal

SPEED = 30.0
MAX_BATCH_REQUESTS = 8
CANCELING = 0.2  # of the seats
FREEZING = 0.3  # of the strikes
Who = Literal["ours", "loop"]

_CREATE: Sequence[dict[str, Any]] = (
    {"fault": "drop_before"},
    {"fault": "drop_after"},
    {"fault": "late", "seconds": 0.3},
    {"fault": "accept_late", "seconds": 0.3},
    {"fault": "reset_upload"},
    {"fault": 401},
    {"fault": 403},
    {"fault": 413},
    {"fault": 429, "times": 3, "retry_after": 1},
    {"fault": 500},
    {"fault": 500, "accepted": True},
    {"fault": 502, "accepted": True},
    {"fault": 503},
    {"fault": 529},
    {"fault": 529, "accepted": True},
)
_POLL: Sequence[dict[str, Any]] = (
    {"fault": "drop_before"},
    {"fault": "late", "seconds": 0.2},
    {"fault": 401},
    {"fault": 500},
    {"fault": 529},
    {"fault": "wrong_counts"},
    {"fault": "relative_url"},
)
_RETRIEVE: Sequence[dict[str, Any]] = ({"fault": 404},)
_RESULTS: Sequence[dict[str, Any]] = (
    {"fault": "drop_before"},
    {"fault": "cut"},
    {"fault": "cut_unframed"},
    {"fault": "cut_line"},
    {"fault": "duplicate_line"},
    {"fault": "missing_line"},
    {"fault": "unknown_line"},
    {"fault": "garbage_line"},
    {"fault": "crlf"},
    {"fault": "gzip"},
    {"fault": 404},
    {"fault": 500},
)
_ROWS: Sequence[dict[str, Any]] = (
    {"fault": "api_error"},
    {"fault": "overloaded_error"},
    {"fault": "rate_limit_error"},
    {"fault": "expired"},
)
_SECTIONS = {"create": _CREATE, "poll": _POLL, "retrieve": _RETRIEVE, "results": _RESULTS, "rows": _ROWS}
_HIGHEST_SHARE = {"create": 0.5, "poll": 0.15, "retrieve": 0.05, "results": 0.3, "rows": 0.1}


@dataclass(frozen=True, slots=True)
class Strike:
    """What hits a process some seconds after it was started: a kill, or a freeze of some seconds."""

    after: float
    frozen_for: float | None


@dataclass(frozen=True, slots=True)
class Seat:
    """Somebody at work on a range of prompts: a process that is started again until it has ended well."""

    prompts: range
    cancels: bool
    strikes: tuple[Strike, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """One run."""

    seed: int
    batch_seconds: float
    faults: dict[str, Any]
    seats: tuple[Seat, ...]


def make_plan(seed: int, *, who: Who) -> Plan:
    """Choose what goes wrong; the loop gets what the first seat of ours gets, and nobody beside it."""
    choose = Random(seed)  # noqa: S311 - mishaps, not secrets
    batch_seconds = choose.choice([0.0, 0.05, 0.2])
    faults = {"seed": seed} | {name: _faults(choose, name) for name in _SECTIONS}
    seats = tuple(_seat(choose) for _ in range(choose.choice([1, 1, 2, 3])))
    if who == "loop":
        seats = (replace(seats[0], cancels=False),)
    return Plan(seed, batch_seconds, faults, seats)


def _faults(choose: Random, section: str) -> list[dict[str, Any]]:
    """Order some faults of a section; together they meet up to its share of operations."""
    some = choose.sample(_SECTIONS[section], choose.randint(0, min(4, len(_SECTIONS[section]))))
    rate = round(choose.uniform(0.1, 1) * _HIGHEST_SHARE[section] / max(1, len(some)), 4)
    return [fault | {"rate": rate} for fault in some]


def _seat(choose: Random) -> Seat:
    """Seats share prompts: at most 60, the first 20 of every range of others."""
    first = choose.choice([0, 0, 20])
    strikes = tuple(_strike(choose) for _ in range(choose.randint(0, 5)))
    return Seat(range(first, first + choose.randint(20, 40)), choose.random() < CANCELING, strikes)


def _strike(choose: Random) -> Strike:
    """Freeze for less than a lease, which a process survives with all its rights, or kill."""
    frozen_for = choose.uniform(0.05, 0.5) if choose.random() < FREEZING else None
    return Strike(choose.expovariate(5), frozen_for)
