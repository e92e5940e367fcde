"""What the API's refusals mean: what is gone at the next call, and what follows from a create call that failed."""

from math import isfinite
from typing import TYPE_CHECKING, Any, Literal

from claude_pipeline.errors import ApiError

if TYPE_CHECKING:
    import anthropic

UNAUTHORIZED, NOT_FOUND, TOO_MANY = 401, 404, 429
SPEND_LIMIT = "enforced_spend_limit_reached"
_REFUSED = frozenset({400, 413, 422})
_TIMEOUT, _TOO_LARGE, _CLOSED, _SERVER_ERROR = 408, 413, 499, 500

Then = Literal["later", "halve", "blocked", "doubtful"]


class CreateRefusedError(ApiError):
    """A create call did not become a batch, or nobody can tell.

    Attributes:
        then: `later` (nothing was created, it may pass), `halve` (too large), `blocked` (the user must act), or
            `doubtful` (a batch may exist).
    """

    def __init__(self, error: ApiError, *, then: Then) -> None:
        super().__init__(
            str(error),
            status=error.status,
            error_type=error.error_type,
            code=error.code,
            retry_after=error.retry_after,
        )
        self.then = then


def is_passing(error: ApiError) -> bool:
    """Tell whether an error of a call may be gone at the next one."""
    return error.status is None or error.status in {_TIMEOUT, TOO_MANY} or error.status >= _SERVER_ERROR


def is_refusal(error: ApiError, *, model: str) -> bool:
    """Tell whether a batch would refuse such a request as well.

    A 404 is of the model if it names it; another one may be of a server that does not count tokens.
    """
    return error.status in _REFUSED or (error.status == NOT_FOUND and model in str(error))


def consequence(error: ApiError, *, complete: bool) -> Then:
    """Say what follows from a create call that failed; `complete` tells whether its whole body may have left."""
    status = error.status
    if status == _TOO_LARGE:
        return "halve"
    if status == TOO_MANY:
        return "blocked" if error.code == SPEND_LIMIT else "later"
    if status is None or status in {_TIMEOUT, _CLOSED} or status >= _SERVER_ERROR:
        return "doubtful" if complete else "later"
    return "blocked"


def words_of(error: "anthropic.APIStatusError") -> str:
    """Return what the API says, and the id that its support asks for."""
    message = _detail(error).get("message")
    request_id = f" (request {error.request_id})" if error.request_id else ""
    return f"{message or error.message}{request_id}"


def code_of(error: "anthropic.APIStatusError") -> str | None:
    """Return the `error_code` of a refusal that has details, such as a spend cap."""
    details = _detail(error).get("details")
    return str(details.get("error_code")) if isinstance(details, dict) else None


def type_of(error: "anthropic.APIStatusError") -> str | None:
    """Return the error's type, in the API's words."""
    kind = _detail(error).get("type")
    return kind if isinstance(kind, str) else None


def _detail(error: "anthropic.APIStatusError") -> dict[str, Any]:
    detail = error.body.get("error") if isinstance(error.body, dict) else None
    return detail if isinstance(detail, dict) else {}


def seconds_of(header: str | None) -> float | None:
    """Read a `retry-after` header."""
    try:
        seconds = float(header or "nan")
        return max(0.0, seconds) if isfinite(seconds) else None
    except ValueError:
        return None
