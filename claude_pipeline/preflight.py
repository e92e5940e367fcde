"""A look at the first request before anything is sent: the free `count_tokens` endpoint checks it in a second.

A batch would say the same hours later, once for every row.
"""

import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from claude_pipeline.batches import BatchesApi
from claude_pipeline.caching import LEAST_TOKENS, SAFE_TOKENS
from claude_pipeline.errors import ApiError, InputError, PipelineWarning
from claude_pipeline.measuring import cached_prefix
from claude_pipeline.prompts import Request, RequestForm
from claude_pipeline.refusals import is_refusal
from claude_pipeline.store import read_batches

_MODELS = 8


def preflight(api: BatchesApi, form: RequestForm, path: Path, *, label: str) -> None:
    """Let the API check the first request of an input, and the first of each other model in its first rows.

    Warns when the prefix that is to be cached is too short for the model. What cannot be checked now is not checked:
    the batch will tell.

    Raises:
        InputError: The API refuses such a request; says why.
    """
    for row, request in islice(_first_of_each_model(form, path), _MODELS):
        params = msgspec.json.decode(request.params)
        try:
            api.count_tokens(params, betas=form.betas)
            _warn_of_short_prefix(api, form, params)
        except ApiError as error:
            if is_refusal(error, model=params["model"]):
                raise InputError(
                    f"The API would refuse row {row + 1:,} of {label}: {error} "
                    "Nothing was sent. Mend the request, or skip this check with preflight=False."
                ) from error


def _first_of_each_model(form: RequestForm, path: Path) -> Iterator[tuple[int, Request]]:
    seen: set[str] = set()
    for first, batch in read_batches(path, form.columns):
        for row, request in enumerate(form.render(batch), first):
            if isinstance(request, Request) and (model := _model(request)) not in seen:
                seen.add(model)
                yield row, request
                if form.column_of("model") is None:
                    return
        if seen:
            return


class _Model(msgspec.Struct):
    model: str


def _model(request: Request) -> str:
    return msgspec.json.decode(request.params, type=_Model).model


def _warn_of_short_prefix(api: BatchesApi, form: RequestForm, params: dict[str, Any]) -> None:
    if not form.caches:
        return
    tokens = api.count_tokens(cached_prefix(params), betas=form.betas)
    model = params["model"]
    if tokens < LEAST_TOKENS:
        warnings.warn(
            f"What cache= should keep has {tokens:,} tokens, but no model keeps less than {LEAST_TOKENS:,}: nothing "
            "will be cached. Leave cache= out, or put more of what all rows share first.",
            PipelineWarning,
            stacklevel=4,
        )
    elif tokens < SAFE_TOKENS:
        warnings.warn(
            f"What cache= should keep has {tokens:,} tokens. Some models keep no less than {SAFE_TOKENS:,}; look up "
            f"the minimum of {model}, and at the hit rate when the first batch has ended.",
            PipelineWarning,
            stacklevel=4,
        )
