"""What a run came to, counted from its files and from what the API itself says of every batch."""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

import pyarrow.parquet as pq

if TYPE_CHECKING:
    from .contestants import Work

BATCHES = "/v1/messages/batches"
_HEADERS = {"x-api-key": "sandbox", "anthropic-version": "2023-06-01"}
_EXCUSED = "SELECT addresses FROM members JOIN shards USING (shard) WHERE missing_from IS NOT NULL OR reason = 'gone'"


@dataclass(slots=True)
class Tally:
    """Figures of one run or of many.

    Attributes:
        retries: Requests accepted again whose answer before was not billed.
        beyond: Requests accepted beyond the distinct ones and these retries.
        twice: Answers billed beyond the first of a request.
        excused: Of these, answers that the API billed and never delivered; the tool names their rows.
    """

    runs: int = 0
    rows: int = 0
    distinct: int = 0
    lost: int = 0
    doubled: int = 0
    misjoined: int = 0
    retries: int = 0
    beyond: int = 0
    twice: int = 0
    excused: int = 0
    stuck: int = 0
    happened: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Tally") -> None:
        """Add the figures of another run."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    @property
    def is_clean(self) -> bool:
        """Whether every row has its own answer and nothing was paid twice without an excuse."""
        return (
            not (self.stuck or self.lost or self.doubled or self.misjoined)
            and self.beyond == self.twice == self.excused
        )


def count(works: Sequence["Work"], happened: Counter[str]) -> Tally:
    """Count what a run came to, once all of its processes have ended."""
    tally = Tally(runs=1, happened=happened)
    url = works[0].url
    tally.faults.update(_met(url))
    for work in works:
        _count_rows(tally, work)
    billed, unbilled = _books(url)
    excused = _excused(works[0])
    tally.distinct = len(billed.keys() | unbilled.keys())
    for custom_id in billed.keys() | unbilled.keys():
        again = billed[custom_id] + unbilled[custom_id] - 1
        tally.retries += min(again, unbilled[custom_id])
        tally.beyond += max(0, again - unbilled[custom_id])
        tally.twice += max(0, billed[custom_id] - 1)
        tally.excused += max(0, billed[custom_id] - 1) if custom_id in excused else 0
    return tally


def _count_rows(tally: Tally, work: "Work") -> None:
    asked = pq.read_table(work.source)["prompt"].to_pylist()
    out = pq.read_table(work.out)
    tally.rows += len(asked)
    tally.doubled += max(0, out.num_rows - len(asked))
    for prompt, response in zip(asked, out["response"].to_pylist(), strict=False):
        tally.lost += response is None
        tally.misjoined += response not in {None, prompt}


def _met(url: str) -> Iterator[str]:
    """Name every fault that was met, and let no more come."""
    shown = _ask(url, "/_sandbox/faults")
    _ask(url, "/_sandbox/faults", method="DELETE")
    for section, faults in shown.items():
        for fault in faults if isinstance(faults, list) else ():
            accepted = " after acceptance" if fault.get("accepted") else ""
            yield from [f"{section} {fault['fault']}{accepted}"] * fault["met"]


def _books(url: str) -> tuple[Counter[str], Counter[str]]:
    """Count for each request how often it was answered and billed, and how often it was neither."""
    billed, unbilled = Counter[str](), Counter[str]()
    for batch in _ask(url, f"{BATCHES}?limit=1000")["data"]:
        for line in _lines(url, f"{BATCHES}/{batch['id']}/results"):
            found = json.loads(line)
            tally = billed if found["result"]["type"] == "succeeded" else unbilled
            tally[found["custom_id"]] += 1
    return billed, unbilled


def _excused(work: "Work") -> set[str]:
    """Read which requests the store says were billed perhaps and never delivered, or whose batch was gone."""
    if not work.store.exists():
        return set()
    with closing(sqlite3.connect(work.store / "ledger.sqlite")) as ledger:
        held = b"".join(addresses for (addresses,) in ledger.execute(_EXCUSED))
    return {held[at : at + 16].hex() for at in range(0, len(held), 16)}


def _ask(url: str, path: str, *, method: str = "GET") -> Any:  # noqa: ANN401 - JSON
    return json.loads(b"".join(_lines(url, path, method=method)))


def _lines(url: str, path: str, *, method: str = "GET") -> list[bytes]:
    request = Request(url + path, headers=_HEADERS, method=method)  # noqa: S310 - our own sandbox
    with urlopen(request) as answer:  # noqa: S310 - the same
        return list(answer)
