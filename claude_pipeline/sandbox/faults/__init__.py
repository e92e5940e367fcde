"""The faults that the sandbox knows, and which operation or row meets which."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from hashlib import blake2b
from threading import Lock
from typing import Annotated, Any, Final, Literal, get_args

import msgspec
from msgspec import Meta, Struct

from claude_pipeline.sandbox.errors import STATUS

Operation = Literal["create", "retrieve", "list", "cancel", "delete", "results", "messages", "count_tokens", "models"]
Section = Literal[Operation, "poll", "streams", "rows"]
SECTIONS: Final[tuple[Section, ...]] = get_args(Section)
ORDERED: Final = tuple(section for section in SECTIONS if section != "rows")
POLLS: Final = frozenset({"retrieve", "list"})
STATUSES: Final = range(400, 600)
WITHOUT_STATUS: Final = frozenset({"streams", "rows"})
LONGEST_NAME: Final = 60

Count = Annotated[int, Meta(ge=1, le=10**9)]
Seconds = Annotated[float, Meta(ge=0, le=86_400)]
Keys = tuple[str, ...]

OF_STATUS: Final[Keys] = ("accepted", "retry_after", "error_type", "message", "error_code")
_ANYWHERE: Final[dict[str, Keys]] = {"drop_before": (), "drop_after": (), "late": ("seconds",), "hang": ()}
_CREATE: Final[dict[str, Keys]] = {
    "accept_late": ("seconds",),
    "slow_upload": ("bytes_per_second",),
    "reset_upload": (),
}
_POLL: Final[dict[str, Keys]] = {"wrong_counts": (), "relative_url": ()}
_RESULTS: Final[dict[str, Keys]] = {
    "cut": (),
    "cut_unframed": (),
    "cut_line": (),
    "slow": ("bytes_per_second",),
    "stall": (),
    "duplicate_line": (),
    "missing_line": (),
    "unknown_line": (),
    "garbage_line": (),
    "crlf": (),
    "gzip": (),
}
_STREAMS: Final[dict[str, Keys]] = {
    "reset": ("events",),
    "eof": ("events",),
    "error": ("events", "error_type", "message"),
    "stall": ("events",),
    "unknown_event": (),
    "invalid_json": (),
    "split_utf8": (),
}
_ROWS: Final[dict[str, Keys]] = {
    **dict.fromkeys(("expired", "canceled", "credit_too_low", "refusal", "truncated"), ()),
    **dict.fromkeys(STATUS, ("message",)),
}
NAMES: Final[Mapping[Section, Mapping[str, Keys]]] = {
    **dict.fromkeys(SECTIONS, _ANYWHERE),
    "create": _ANYWHERE | _CREATE,
    "poll": _ANYWHERE | _POLL,
    "retrieve": _ANYWHERE | _POLL,
    "list": _ANYWHERE | _POLL,
    "results": _ANYWHERE | _RESULTS,
    "streams": _STREAMS,
    "rows": _ROWS,
}


class FaultsError(ValueError):
    """A fault that could never happen was ordered."""


class UnknownNameError(FaultsError):
    """Nothing has this name."""

    def __init__(self, name: object, *, where: str, what: str, known: Sequence[str]) -> None:
        text = str(name)[:LONGEST_NAME] if isinstance(name, str | int) else type(name).__name__
        near = get_close_matches(text, known, n=1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        super().__init__(f"{where}: no {what} {text!r}.{meant} There is: {', '.join(known)}.")


class MissingFaultError(FaultsError):
    """An entry of a section does not say which fault it is."""

    def __init__(self, keys: Sequence[str], *, section: Section, where: str) -> None:
        near = get_close_matches("fault", keys, n=1)
        meant = f" Did you mean it by {near[0]!r}?" if near else ""
        super().__init__(f"{where}: the key fault is missing.{meant} It is one of: {', '.join(names_of(section))}.")


class Fault(Struct, frozen=True, kw_only=True, omit_defaults=True, rename={"name": "fault", "start": "from"}):
    """What goes wrong, and when: `rate`, `positions` or `start`, else always.

    Attributes:
        name: One of `NAMES`, or the status of a refusal.
        rate: The share of operations, or of rows, that meet it.
        positions: Which operations meet it, or which rows of a batch; they count from 1.
        start: The first row of a batch that meets it; all later ones do.
        times: How many operations in a row meet it, once one has.
        accepted: Whether the operation is done before it is refused.
        retry_after: Seconds, sent with status 429; without it 1, or nothing if there is an `error_code`.
        error_type: The type of error, if not the usual one.
        message: The error's message.
        error_code: The code in the error's `details`.
        seconds: How late.
        bytes_per_second: How slow.
        events: How many events of a stream come before.
    """

    name: int | str
    rate: Annotated[float, Meta(ge=0, le=1)] | None = None
    positions: frozenset[Count] = frozenset()
    start: Count | None = None
    times: Count | None = None
    accepted: bool = False
    retry_after: Annotated[int, Meta(ge=0, le=10**9)] | None = None
    error_type: str | None = None
    message: str | None = None
    error_code: str | None = None
    seconds: Seconds = 1.0
    bytes_per_second: Count = 1_000
    events: Annotated[int, Meta(ge=0, le=10**9)] = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """The faults of every section, in order; without a seed the sandbox's is taken."""

    seed: int | None = None
    faults: Mapping[Section, Sequence[Fault]] = field(default_factory=dict)


class Faults:
    """The faults still to come; each operation, each stream and each row asks here once."""

    def __init__(self, plan: Plan, *, seed: int) -> None:
        self._lock = Lock()
        self._usual_seed = seed
        self._counts: Counter[Section] = Counter()
        self._ordered: list[_Watch] = []
        self.replace(plan)

    def replace(self, plan: Plan) -> None:
        """Follow another plan from here on; what was ordered by itself stays."""
        with self._lock:
            self._seed = self._usual_seed if plan.seed is None else plan.seed
            self._planned = [
                _Watch(fault, section, since=self._counts[section], seed=f"{self._seed}:{section}:{index}")
                for section, faults in plan.faults.items()
                for index, fault in enumerate(faults)
            ]
            self._rows = [watch for watch in self._planned if watch.section == "rows"]

    def order(self, section: Section, fault: Fault, *, after: int) -> None:
        """Let operations meet a fault once `after` have passed, counted from the end of those ordered before."""
        check_name(fault.name, section=section, where="fail_next", sections=ORDERED)
        with self._lock:
            ends = [watch.last for watch in self._ordered if watch.section == section]
            since = max([self._counts[section], *ends])
            placed = msgspec.structs.replace(fault, positions=frozenset({after + 1}))
            self._ordered.append(_Watch(placed, section, since=since, seed=""))

    def take(self, operation: Operation | Literal["streams"]) -> Fault | None:
        """Count an operation and return the fault that it meets."""
        sections: tuple[Section, ...] = (operation, "poll") if operation in POLLS else (operation,)
        with self._lock:
            self._counts.update(sections)
            watches = [watch for watch in [*self._ordered, *self._planned] if watch.section in sections]
            # All are asked, so that a storm begins also behind another fault.
            met = [watch for watch in watches if watch.is_met(self._counts[watch.section])]
            self._ordered = [watch for watch in self._ordered if self._counts[watch.section] < watch.last]
            return met[0].meet() if met else None

    def take_row(self, custom_id: str, *, attempt: int, position: int) -> Fault | None:
        """Return the fault that a row meets; `position` counts the rows of its batch from 1."""
        if not self._rows:
            return None
        drawn = chance(f"{self._seed}:{custom_id}:{attempt}")
        with self._lock:
            for watch in self._rows:
                if watch.fault.rate is None:
                    is_met = _is_row(watch.fault, position)
                else:
                    is_met, drawn = drawn < watch.fault.rate, drawn - watch.fault.rate
                if is_met:
                    return watch.meet()
        return None

    def show(self) -> dict[str, Any]:
        """Show the plan, and with each fault how often it was met."""
        with self._lock:
            shown: dict[str, Any] = {"seed": self._seed}
            for watch in self._planned:
                shown.setdefault(watch.section, []).append(watch.show())
            return shown


class _Watch:
    """A fault, where it belongs, and how often it was met; `since` operations do not count."""

    def __init__(self, fault: Fault, section: Section, *, since: int, seed: str) -> None:
        self.fault, self.section, self.met = fault, section, 0
        self._since, self._seed, self._until = since, seed, 0

    @property
    def last(self) -> int:
        """The operation after which an ordered fault is over."""
        return self._since + min(self.fault.positions) + (self.fault.times or 1) - 1

    def is_met(self, count: int) -> bool:
        number = count - self._since
        if self._begins(number):
            self._until = number + (self.fault.times or 1) - 1
        return 0 < number <= self._until

    def meet(self) -> Fault:
        self.met += 1
        return self.fault

    def show(self) -> dict[str, Any]:
        fault = msgspec.to_builtins(self.fault)
        if self.fault.positions:
            fault["positions"] = sorted(self.fault.positions)
        return {**fault, "met": self.met}

    def _begins(self, number: int) -> bool:
        if self.fault.positions:
            return number in self.fault.positions
        if self.fault.rate is not None:
            return chance(f"{self._seed}:{number}") < self.fault.rate
        return self.fault.times is None or number == 1


def check_name(name: object, *, section: Section, where: str, sections: Sequence[str] = SECTIONS) -> None:
    """Raise a `FaultsError` unless the section knows the fault."""
    if section not in sections:
        raise UnknownNameError(section, where=where, what="operation", known=sections)
    if isinstance(name, int) and section not in WITHOUT_STATUS:
        if name not in STATUSES:
            raise UnknownNameError(name, where=where, what="status", known=["400 to 599"])
    elif not isinstance(name, str) or name not in NAMES[section]:
        raise UnknownNameError(name, where=where, what=f"fault of {section}", known=names_of(section))


def names_of(section: Section) -> Sequence[str]:
    """List the faults of a section, in words where it is a status."""
    return [*NAMES[section], *([] if section in WITHOUT_STATUS else ["a status from 400 to 599"])]


def keys_of(fault: object, *, section: Section) -> Keys:
    """Return the keys that go with a fault, its name aside."""
    when = ("rate", "positions", "from") if section == "rows" else ("rate", "positions", "times")
    return when + (OF_STATUS if isinstance(fault, int) else NAMES[section][str(fault)])


def _is_row(fault: Fault, position: int) -> bool:
    if fault.positions:
        return position in fault.positions
    return fault.start is None or position >= fault.start


def chance(text: str) -> float:
    """Return a number from 0 up to 1 that belongs to a text, always the same one."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) / 2**64
