"""Reading a faults file, or what stands for one: every mistake is named, with the nearest name that there is."""

import tomllib
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from reprlib import repr as short
from typing import Any, Final

import msgspec

from claude_pipeline.sandbox.faults import (
    SECTIONS,
    Fault,
    FaultsError,
    MissingFaultError,
    Plan,
    Section,
    UnknownNameError,
    check_name,
    keys_of,
)

LARGEST_SEED: Final = 2**63
ENDINGS: Final = (".toml", ".json")
WHEN: Final = ("rate", "positions", "from")
WANTED: Final[Mapping[str, str]] = {
    "rate": "It is a share, a number from 0 to 1",
    "positions": "It is a list of whole numbers from 1 up",
    "from": "It is a whole number from 1 up",
    "times": "It is a whole number from 1 up",
    "accepted": "It is true or false",
    "retry_after": "It is a whole number from 0 up",
    **dict.fromkeys(("error_type", "message", "error_code"), "It is a text"),
    "seconds": "It is a number from 0 to 86400",
    "bytes_per_second": "It is a whole number from 1 up",
    "events": "It is a whole number from 0 up",
}
Source = str | PathLike[str] | Mapping[str, Any]


class UnreadableFaultsError(FaultsError):
    """The faults file cannot be read."""

    def __init__(self, path: Path, *, reason: str) -> None:
        super().__init__(f"The faults file {path} cannot be read: {reason}.")


class MisfitError(FaultsError):
    """A value is not what its key wants."""

    def __init__(self, value: object, *, where: str, wanted: str) -> None:
        super().__init__(f"{where}: {short(value)} does not fit. {wanted}.")


class TooManyConditionsError(FaultsError):
    """A fault says twice when it is met."""

    def __init__(self, keys: Sequence[str], *, where: str) -> None:
        super().__init__(f"{where}: {' and '.join(keys)} exclude each other. Give one of them.")


class RatesError(FaultsError):
    """Rates are more than everything."""

    def __init__(self, rates: Sequence[float]) -> None:
        super().__init__(f"Rates are shares: from 0 up, together at most 1, not {[*rates]}.")


def read_plan(source: Source | None) -> Plan:
    """Read a plan from a mapping, or from a file that ends in `.toml` or `.json`.

    Raises:
        FaultsError: It cannot be read, or a name or a value in it is none of those there are.
    """
    if source is None:
        return Plan()
    if isinstance(source, Mapping):
        return parse_plan(source)
    path = Path(source)
    return parse_plan(_read(path))


def parse_plan(content: object) -> Plan:
    """Check the content of a faults file.

    Raises:
        FaultsError: A name or a value in it is none of those there are.
    """
    if not isinstance(content, Mapping):
        raise MisfitError(content, where="faults", wanted="It is an object of lists, such as create")
    faults = {_section(key): _list(key, value) for key, value in content.items() if key != "seed"}
    _check_rates([fault.rate for fault in faults.get("rows", ()) if fault.rate is not None])
    return Plan(_seed(content.get("seed")), faults)


def with_rates(plan: Plan, *, error_rates: Mapping[str, float], expire_rate: float) -> Plan:
    """Add faults of rows: errors by type, and requests that expire."""
    for name in error_rates:
        check_name(name, section="rows", where="error_rates")
    rates = {**error_rates, "expired": expire_rate}
    rows = (*plan.faults.get("rows", ()), *(Fault(name=name, rate=rate) for name, rate in rates.items() if rate))
    _check_rates([fault.rate for fault in rows if fault.rate is not None])
    return Plan(plan.seed, {**plan.faults, "rows": rows}) if rows else plan


def _read(path: Path) -> object:
    if path.suffix not in ENDINGS:
        raise UnreadableFaultsError(path, reason="it ends neither in .toml nor in .json")
    try:
        text = path.read_text(encoding="utf-8")
        return tomllib.loads(text) if path.suffix == ".toml" else msgspec.json.decode(text)
    except OSError as error:
        raise UnreadableFaultsError(path, reason=error.strerror or str(error)) from error
    except (ValueError, RecursionError, msgspec.DecodeError) as error:
        raise UnreadableFaultsError(path, reason=str(error)) from error


def _section(key: object) -> Section:
    if key not in SECTIONS:
        raise UnknownNameError(key, where="faults", what="key", known=["seed", *SECTIONS])
    return key


def _seed(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > LARGEST_SEED:
        raise MisfitError(value, where="seed", wanted="It is a whole number of 64 bits")
    return value


def _list(section: str, value: object) -> Sequence[Fault]:
    if not isinstance(value, list | tuple):
        wanted = f"It is a list of faults; in TOML each begins with [[{section}]]"
        raise MisfitError(value, where=section, wanted=wanted)
    checked = _section(section)
    return tuple(_fault(checked, item, where=f"{section}, fault {number}") for number, item in enumerate(value, 1))


def _fault(section: Section, item: object, *, where: str) -> Fault:
    if not isinstance(item, Mapping):
        raise MisfitError(item, where=where, wanted="It is an object with a key fault, and more")
    if "fault" not in item:
        raise MissingFaultError([*map(str, item)], section=section, where=where)
    name = item["fault"]
    check_name(name, section=section, where=where)
    known = keys_of(name, section=section)
    for key in item.keys() - {"fault", *known}:
        raise UnknownNameError(key, where=where, what=f"key of {name}", known=known)
    if len(given := [key for key in WHEN if key in item]) > 1:
        raise TooManyConditionsError(given, where=where)
    return _convert(item, where=where)


def _convert(item: Mapping[str, object], *, where: str) -> Fault:
    for key, value in item.items():
        try:
            # Encoded too: what Python takes for text need not be any that can be sent.
            msgspec.json.encode(msgspec.convert({"fault": "", key: value}, Fault))
        except (msgspec.ValidationError, UnicodeEncodeError) as error:
            raise MisfitError(value, where=f"{where}, {key}", wanted=WANTED[key]) from error
    return msgspec.convert(dict(item), Fault)


def _check_rates(rates: Sequence[float]) -> None:
    if min(rates, default=0) < 0 or sum(rates) > 1:
        raise RatesError(rates)
