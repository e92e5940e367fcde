"""One walk over an input that keeps what an estimate needs: about 40 bytes of each row, and a sample of requests."""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from claude_pipeline.calibrating import Floats
from claude_pipeline.errors import InputError
from claude_pipeline.measuring import Scales, Weight
from claude_pipeline.prompts import Request, RequestForm
from claude_pipeline.shards import body_bytes, cut, largest_request, too_large
from claude_pipeline.status import Refusal
from claude_pipeline.tables import Table
from claude_pipeline.unsent import Unsent, name_row
from claude_pipeline.values import Unsendable

Weights = npt.NDArray[Any]
Known = Callable[[set[bytes]], set[bytes]]

WEIGHT = np.dtype(
    [
        ("address", "S16"),
        ("size", "<u4"),
        ("text", "<u4"),
        ("documents", "<u4"),
        ("images", "<u2"),
        ("turns", "<u4"),
        ("kind", "<u4"),
        ("is_known", "?"),
    ]
)
_PORTION_BYTES = 8_000_000
_PORTION_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class Census:
    """What an input holds.

    Attributes:
        weights: What each distinct request that is still to be asked weighs, in the order of the input.
        refusals: Why rows cannot be sent.
        kinds: The model and `max_tokens` that `kind` stands for in `weights`.
        samples: For each model, a uniform sample of what is to be asked.
    """

    rows: int
    skipped: int
    invalid: int
    requests: int
    refusals: list[Refusal]
    weights: Weights
    kinds: list[tuple[str, int]]
    samples: dict[str, list[Request]]

    def of_model(self, model: str) -> Weights:
        """Return what the requests to one model weigh."""
        kinds = [kind for kind, (name, _) in enumerate(self.kinds) if name == model]
        chosen = np.isin(self.weights["kind"], kinds)
        return self.weights if chosen.all() else self.weights[chosen]

    def max_tokens(self, model: str) -> Floats:
        """Return how long each answer of one model may be."""
        most: Floats = np.array([most for _, most in self.kinds], dtype=np.float64)
        return np.take(most, self.of_model(model)["kind"])

    @property
    def answered(self) -> int:
        """Count the distinct requests that need not be asked again."""
        return self.requests - len(self.weights)

    @property
    def models(self) -> list[str]:
        """Name the models that are to be asked, in the order of the input."""
        asked = set(self.weights["kind"].tolist())
        return list(dict.fromkeys(model for kind, (model, _) in enumerate(self.kinds) if kind in asked))


def take_census(
    table: Table, form: RequestForm, *, limit: int | None, largest: int, sample: int, known: Known
) -> Census:
    """Walk over an input once.

    Args:
        table: The input, which is read to its end.
        form: What makes a row a request.
        limit: Only the first so many rows.
        largest: Bytes that a batch may have.
        sample: How many requests to keep of each model.
        known: Tells which of some addresses need not be asked again.

    Raises:
        InputError: The table cannot be read, or has no rows.
    """
    walk = _Walk(form, largest=largest, sample=sample, known=known)
    for batch in _limited(table, limit):
        walk.add(batch)
    if not walk.rows:
        raise InputError(f"{table.label} has no rows.")
    return walk.finish()


def _limited(table: Table, limit: int | None) -> Iterator[pa.RecordBatch]:
    left = limit
    for batch in table.batches:
        yield batch.slice(0, left)
        left = None if left is None else left - batch.num_rows
        if left is not None and left <= 0:
            return


class _Walk:
    def __init__(self, form: RequestForm, *, largest: int, sample: int, known: Known) -> None:
        self.rows = 0
        self._form, self._largest, self._known = form, largest, known
        self._scales = Scales(form)
        self._sample = _Sample(sample)
        self._unsent = Unsent()
        self._skipped = self._invalid = self._pending_bytes = 0
        self._kinds: dict[tuple[str, int], int] = {}
        self._pending: list[tuple[Request, Weight]] = []
        self._chunks: list[Weights] = []

    def add(self, batch: pa.RecordBatch) -> None:
        """Weigh a batch's requests."""
        first = self.rows
        self.rows += batch.num_rows
        for row, request in enumerate(self._form.render(batch), first):
            if isinstance(request, Unsendable):
                self._refuse(request, name_row(batch, row, first=first, id_column=None))
            elif request.size > largest_request(self._largest):
                self._refuse(too_large(request.size, self._largest), name_row(batch, row, first=first, id_column=None))
            else:
                self._keep(request)

    def _refuse(self, why: Unsendable, name: str) -> None:
        if why.error_type == "missing_prompt":
            self._skipped += 1
            return
        self._invalid += 1
        self._unsent.add(Unsendable(why.error_type, f"{name}: {why.error_message}"))

    def _keep(self, request: Request) -> None:
        self._pending.append((request, self._scales.weigh(request.params)))
        self._pending_bytes += request.size
        if self._pending_bytes >= _PORTION_BYTES or len(self._pending) >= _PORTION_ROWS:
            self._flush()

    def _flush(self) -> None:
        """Drop the requests' bytes, but for the sample's."""
        known = self._known({request.address for request, _ in self._pending})
        for request, weight in self._pending:
            if request.address not in known:
                self._sample.offer(weight.model, request)
        rows = [self._row(request, weight, is_known=request.address in known) for request, weight in self._pending]
        self._chunks.append(np.array(rows, dtype=WEIGHT))
        self._pending.clear()
        self._pending_bytes = 0

    def _row(self, request: Request, weight: Weight, *, is_known: bool) -> tuple[object, ...]:
        kind = self._kinds.setdefault((weight.model, weight.max_tokens), len(self._kinds))
        contents = weight.text_bytes, weight.document_bytes, weight.images, weight.turns
        return request.address, request.size, *contents, kind, is_known

    def finish(self) -> Census:
        """Put together what was found."""
        self._flush()
        every = np.concatenate(self._chunks)
        self._chunks.clear()
        is_first = np.zeros(len(every), dtype=bool)
        is_first[np.unique(every["address"], return_index=True)[1]] = True
        counts = (self.rows, self._skipped, self._invalid, int(is_first.sum()))
        return Census(
            *counts,
            self._unsent.refusals,
            every[is_first & ~every["is_known"]],
            list(self._kinds),
            self._sample.requests,
        )


class _Sample:
    """The requests with the smallest addresses: these are hashes, so that no row is likelier than another.

    The same input always has the same sample.
    """

    def __init__(self, most: int) -> None:
        self.requests: dict[str, list[Request]] = {}
        self._most = most

    def offer(self, model: str, request: Request) -> None:
        """Take a request if its address is small enough, and new."""
        if not self._most:
            return
        kept = self.requests.setdefault(model, [])
        if len(kept) == self._most and request.address >= kept[-1].address:
            return
        place = bisect_left(kept, request.address, key=attrgetter("address"))
        if place == len(kept) or kept[place].address != request.address:
            kept.insert(place, request)
            del kept[self._most :]


def pack(sizes: npt.NDArray[np.integer[Any]], *, max_requests: int, max_bytes: int) -> list[tuple[int, int]]:
    """Count the requests and bytes of each batch that requests of these sizes make, as planning does."""
    exact = sizes.astype(np.int64)
    ends = cut(exact, max_requests=max_requests, max_bytes=max_bytes)
    return [(stop - start, body_bytes(exact[start:stop])) for start, stop in pairwise(ends)]


def count_waves(shards: list[tuple[int, int]], *, max_queued: int) -> int:
    """Count how often the queue fills up with batches of so many requests, if all of it has to empty in between."""
    waves, queued = 0, 0
    for requests, _ in shards:
        if not waves or queued + requests > max_queued:
            waves, queued = waves + 1, 0
        queued += requests
    return waves
