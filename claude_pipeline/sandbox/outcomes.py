"""What becomes of each request of a batch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from claude_pipeline.sandbox.answers import Answer, AnswerFunction, answer, facts
from claude_pipeline.sandbox.errors import ApiError, error_body
from claude_pipeline.sandbox.params import check_in_batch
from claude_pipeline.sandbox.wire import Canceled, Errored, Expired, ResultLine, Succeeded, content_id

_PARAMS: Final = msgspec.json.Decoder()
RowFunction = Callable[[str, dict[str, Any], int], str | None]
Unanswered = Literal["canceled", "expired"]

CREDIT_TOO_LOW: Final = "credit_too_low"
CREDIT_MESSAGE: Final = (
    "Your credit balance is too low to access the Anthropic API. "
    "Please go to Plans & Billing to upgrade or purchase credits."
)


class Row(Struct, frozen=True, gc=False):
    """A request of a batch as it was received, and how often its id has been received by now."""

    custom_id: str
    params: msgspec.Raw
    attempt: int


class RowError(Struct, frozen=True, gc=False):
    """Why a request failed."""

    error_type: str
    message: str


Outcome = Answer | RowError | Unanswered


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """How requests are answered, and which of them fail.

    Attributes:
        write: Writes the text of an answer from the request's params.
        rows: `rows(custom_id, params, attempt)` decides one request of a batch: `succeeded` (even when the
            batch is canceled or expires), `expired`, `canceled`, `credit_too_low`, an error type, or None
            to leave it to the rates. `attempt` counts from 1 over all batches.
        error_rates: The share of requests that fail, by error type.
        expire_rate: The share of requests that expire.
        seed: Chooses which requests the rates meet; the same seed, id and attempt meet the same fate.
    """

    write: AnswerFunction = facts
    rows: RowFunction | None = None
    error_rates: Mapping[str, float] = field(default_factory=dict)
    expire_rate: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse rates that are no shares."""
        shares = [*self.error_rates.values(), self.expire_rate]
        if min(shares) < 0 or sum(shares) > 1:
            error = f"Rates are shares: from 0 up, together at most 1, not {shares}."
            raise ValueError(error)

    def outcome(self, row: Row, *, version: str, unfinished: Unanswered | None) -> Outcome:
        """Decide a request; `unfinished` is what becomes of it if the batch stopped early."""
        try:
            params = _PARAMS.decode(row.params)
        except RecursionError:
            # Accepted from a shallower stack than this one.
            return RowError("invalid_request_error", "params: nested too deeply")
        wish = self._wish(row, params)
        if unfinished is not None and wish != "succeeded":
            return unfinished
        match wish:
            case "canceled" | "expired":
                return wish
            case None | "succeeded":
                return self._answer(params, version=version)
            case "credit_too_low":
                return RowError("invalid_request_error", CREDIT_MESSAGE)
            case error_type:
                return RowError(error_type, "The sandbox was asked to fail this request.")

    def _wish(self, row: Row, params: object) -> str | None:
        if self.rows and isinstance(params, dict) and (wish := self.rows(row.custom_id, params, row.attempt)):
            return wish
        return self._by_rate(row)

    def _by_rate(self, row: Row) -> str | None:
        if not self.error_rates and not self.expire_rate:
            return None
        chance = _chance(f"{self.seed}:{row.custom_id}:{row.attempt}")
        for wish, rate in [*self.error_rates.items(), ("expired", self.expire_rate)]:
            if chance < rate:
                return wish
            chance -= rate
        return None

    def _answer(self, params: object, *, version: str) -> Outcome:
        try:
            checked = check_in_batch(params, version=version)
        except ApiError as error:
            # A batch has one type for whatever is wrong with params.
            return RowError("invalid_request_error", error.message)
        return answer(dict(checked), write=self.write)


def result_line(row: Row, outcome: Outcome) -> ResultLine:
    """Show a request's outcome as a line of the results file."""
    match outcome:
        case Answer():
            message = outcome.message(bytes(row.params), service_tier="batch")
            return ResultLine(row.custom_id, Succeeded(message))
        case RowError(error_type, message):
            request_id = content_id("req", row.custom_id.encode(), bytes([row.attempt % 256]))
            body = error_body(error_type, message, request_id=request_id)
            return ResultLine(row.custom_id, Errored(body))
        case "canceled":
            return ResultLine(row.custom_id, Canceled())
        case "expired":
            return ResultLine(row.custom_id, Expired())


def _chance(text: str) -> float:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) / 2**64
