"""The bodies of requests, from bytes to checked values."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from claude_pipeline.sandbox.errors import ApiError, InvalidRequestError
from claude_pipeline.sandbox.spool import Body

MOST_REQUESTS: Final = 100_000
LEGAL_ID: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class Request(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """One request of a batch; `params` are the bytes as they came."""

    custom_id: str
    params: msgspec.Raw


class CreateBody(Struct, frozen=True, forbid_unknown_fields=True):
    """The body that creates a batch."""

    requests: list[Request]


_BATCH: Final = msgspec.json.Decoder(CreateBody)
_ANY: Final = msgspec.json.Decoder()


def decode_batch(body: Body) -> Sequence[Request]:
    """Read the requests of a batch, or raise an `ApiError`; their params are JSON, and not checked further."""
    requests: Sequence[Request] = _decode(_BATCH, body).requests
    _check_size(requests)
    _check_ids(requests)
    for request in requests:
        _decode(_ANY, request.params)
    return requests


def decode_kept(body: memoryview) -> Sequence[Request]:
    """Read the requests of a batch that was checked when it came; else a `msgspec.DecodeError`."""
    return _BATCH.decode(body).requests


def decode(body: Body) -> Any:  # noqa: ANN401 - whatever the client sent
    """Read a JSON body, or raise an `ApiError`."""
    return _decode(_ANY, body)


def _decode(decoder: msgspec.json.Decoder[Any], body: Body | msgspec.Raw) -> Any:  # noqa: ANN401 - as above
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"The request body is not valid JSON: {error}"
        raise InvalidRequestError(message) from None


def _check_size(requests: Sequence[Request]) -> None:
    if not requests:
        raise InvalidRequestError("requests: at least one request is required")
    if len(requests) > MOST_REQUESTS:
        message = f"requests: {len(requests)} requests, but a batch takes at most {MOST_REQUESTS}"
        raise ApiError("request_too_large", message)


def _check_ids(requests: Sequence[Request]) -> None:
    for index, request in enumerate(requests):
        if not LEGAL_ID.fullmatch(request.custom_id):
            message = f"requests.{index}.custom_id: String should match pattern '^[a-zA-Z0-9_-]{{1,64}}$'"
            raise InvalidRequestError(message)
    if len({request.custom_id for request in requests}) < len(requests):
        (custom_id, _), *_ = Counter(request.custom_id for request in requests).most_common(1)
        raise InvalidRequestError(f"requests: custom_id must be unique within a batch, but {custom_id} is not")
