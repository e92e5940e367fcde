"""A look at the first request before anything is sent: the free `count_tokens` endpoint checks it in a second.

A batch would say the same hours later, once for every row.
"""

import inspect
import warnings
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from claude_pipeline.batches import BatchesApi
from claude_pipeline.caching import LEAST_TOKENS, SAFE_TOKENS
from claude_pipeline.errors import ApiError, InputError, PipelineWarning
from claude_pipeline.measuring import cached_prefix
from claude_pipeline.parquets import read_batches
from claude_pipeline.prompts import Request, RequestForm
from claude_pipeline.refusals import is_refusal
from claude_pipeline.unsent import name_row

_MODELS = 8
_OTHERS = 2
_LOOKED_THROUGH = 1_000


def preflight(api: BatchesApi, form: RequestForm, path: Path, *, label: str, id_column: str | None) -> None:
    """Let the API check the first request of an input, and the first of each other model in its first rows.

    Warns when it is only that one which the API would refuse, and when the prefix that is to be cached is too short
    for the model. What cannot be checked now is not checked: the batch will tell.

    Raises:
        InputError: The API refuses such requests; says why.
    """
    looking = _Preflight(api, form, path, label, id_column)
    for row in islice(looking.first_of_each_model(), _MODELS):
        looking.check(row)


class _Row(NamedTuple):
    """A request, and where it comes from."""

    batch: pa.RecordBatch
    first: int
    row: int
    request: Request

    @property
    def model(self) -> str:
        return msgspec.json.decode(self.request.params, type=_Model).model

    @property
    def params(self) -> dict[str, Any]:
        params: dict[str, Any] = msgspec.json.decode(self.request.params)
        return params


class _Model(msgspec.Struct):
    model: str


class _Preflight(NamedTuple):
    api: BatchesApi
    form: RequestForm
    path: Path
    label: str
    id_column: str | None

    def first_of_each_model(self) -> Iterator[_Row]:
        seen: set[str] = set()
        for rows in self._batches():
            for row in rows:
                if row.model not in seen:
                    seen.add(row.model)
                    yield row
                    if self.form.column_of("model") is None:
                        return
            if seen:
                return

    def check(self, row: _Row) -> None:
        """Let the API check a request, and what is to be cached of it."""
        params = row.params
        try:
            self.api.count_tokens(params, betas=self.form.betas)
        except ApiError as error:
            if is_refusal(error, model=row.model):
                self._judge(row, error)
        else:
            with suppress(ApiError):
                _warn_of_short_prefix(self.api, self.form, params)

    def _judge(self, row: _Row, error: ApiError) -> None:
        """Tell what is wrong with one row from what is wrong with all: one bad row sinks no job."""
        name = name_row(row.batch, row.row, first=row.first, id_column=self.id_column)
        said = f"{name} of {self.label} would be refused: {str(error).removesuffix('.')}."
        if any(self._takes(other) for other in islice(self._others_like(row), _OTHERS)):
            _warn(f"{said} Others would not, so the job goes on; that row will have no answer and costs nothing.")
        else:
            raise InputError(
                f"{said} Nothing was sent. Mend the request, or skip this check with preflight=False."
            ) from error

    def _takes(self, row: _Row) -> bool:
        try:
            self.api.count_tokens(row.params, betas=self.form.betas)
        except ApiError:
            return False
        return True

    def _others_like(self, row: _Row) -> Iterator[_Row]:
        """Yield other requests to the same model, if they are not far."""
        for other in islice(chain.from_iterable(self._batches()), _LOOKED_THROUGH):
            if other.request.address != row.request.address and other.model == row.model:
                yield other

    def _batches(self) -> Iterator[Iterator[_Row]]:
        columns = self.form.columns | ({self.id_column} if self.id_column else set())
        for first, batch in read_batches(self.path, columns):
            yield self._rows(first, batch)

    def _rows(self, first: int, batch: pa.RecordBatch) -> Iterator[_Row]:
        for row, request in enumerate(self.form.render(batch), first):
            if isinstance(request, Request):
                yield _Row(batch, first, row, request)


def _warn_of_short_prefix(api: BatchesApi, form: RequestForm, params: dict[str, Any]) -> None:
    if not form.caches:
        return
    tokens = api.count_tokens(cached_prefix(params), betas=form.betas)
    if tokens < LEAST_TOKENS:
        _warn(
            f"What cache= should keep has {tokens:,} tokens, but no model keeps less than {LEAST_TOKENS:,}: nothing "
            "will be cached. Leave cache= out, or put more of what all rows share first."
        )
    elif tokens < SAFE_TOKENS:
        _warn(
            f"What cache= should keep has {tokens:,} tokens. Some models keep no less than {SAFE_TOKENS:,}; look up "
            f"the minimum of {params['model']}, and at the hit rate when the first batch has ended."
        )


def _warn(words: str) -> None:
    frame, level = inspect.currentframe(), 1
    while frame and frame.f_globals.get("__name__", "").startswith("claude_pipeline."):
        frame, level = frame.f_back, level + 1
    warnings.warn(words, PipelineWarning, stacklevel=level)  # where submit was called
