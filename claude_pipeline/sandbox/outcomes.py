"""What becomes of each request of a batch."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from claude_pipeline.sandbox.answers import Answer, AnswerError, AnswerFunction, answer, facts, refused, truncated
from claude_pipeline.sandbox.answers.caching import PromptCache
from claude_pipeline.sandbox.errors import ApiError, error_body
from claude_pipeline.sandbox.faults import Fault, Faults, Plan
from claude_pipeline.sandbox.params import Params, check_in_batch
from claude_pipeline.sandbox.wire import Canceled, Errored, Expired, ResultLine, Succeeded, content_id

_PARAMS: Final = msgspec.json.Decoder()
RowFunction = Callable[[str, dict[str, Any], int], str | None]
Unanswered = Literal["canceled", "expired"]

CREDIT_TOO_LOW: Final = "credit_too_low"
CREDIT_MESSAGE: Final = (
    "Your credit balance is too low to access the Anthropic API. "
    "Please go to Plans & Billing to upgrade or purchase credits."
)
FAILED_MESSAGE: Final = "The sandbox was asked to fail this request."
ALTERED: Final = {"refusal": refused, "truncated": truncated}
SUCCESS: Final = Fault(name="succeeded")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, in which version, at which address, and when, in seconds since the epoch."""

    workspace: str
    version: str
    base_url: str
    now: float


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
        write: Writes an answer from the request's params: a text, content blocks, or a dict with both and more.
        rows: `rows(custom_id, params, attempt)` decides one request of a batch: `succeeded` (even when the
            batch is canceled or expires), `expired`, `canceled`, `credit_too_low`, `refusal`, `truncated`, an
            error type, or None to leave it to the faults. `attempt` counts from 1 over all batches.
        faults: Which requests fail.
        cache: Which prompts were seen before.
        seed: Chooses the order of results.
    """

    write: AnswerFunction = facts
    rows: RowFunction | None = None
    faults: Faults = field(default_factory=lambda: Faults(Plan(), seed=0))
    cache: PromptCache = field(default_factory=PromptCache)
    seed: int = 0

    def message(self, params: Params, caller: Caller) -> Answer:
        """Answer a message outside of batches, or raise an `ApiError`."""
        return self.cache.charge(
            answer(dict(params), write=self.write), params, account=caller.workspace, now=caller.now
        )

    def outcome(self, row: Row, caller: Caller, *, position: int, unfinished: Unanswered | None) -> Outcome:
        """Decide a request; `unfinished` is what becomes of it if the batch stopped early.

        `position` is the request's in its batch, from 1; the caller asked for the batch, and its time is the end's.
        """
        try:
            params = _PARAMS.decode(row.params)
        except RecursionError:
            # Accepted from a shallower stack than this one.
            return RowError("invalid_request_error", "params: nested too deeply")
        wish = self._wish(row, params)
        if unfinished is not None and wish != "succeeded":
            return unfinished
        if wish is not None:
            return self._fulfil(Fault(name=wish), params, caller)
        fault = self.faults.take_row(row.custom_id, attempt=row.attempt, position=position)
        return self._fulfil(fault or SUCCESS, params, caller)

    def _wish(self, row: Row, params: object) -> str | None:
        if self.rows is None or not isinstance(params, dict):
            return None
        return self.rows(row.custom_id, params, row.attempt) or None

    def _fulfil(self, fault: Fault, params: object, caller: Caller) -> Outcome:
        match fault.name:
            case "succeeded" | "refusal" | "truncated" as name:
                return self._answer(params, name, caller)
            case "canceled" | "expired" as unanswered:
                return unanswered
            case "credit_too_low":
                return RowError("invalid_request_error", CREDIT_MESSAGE)
            case error_type:
                return RowError(str(error_type), fault.message or FAILED_MESSAGE)

    def _answer(self, params: object, name: str, caller: Caller) -> Outcome:
        try:
            checked = check_in_batch(params, version=caller.version)
        except ApiError as error:
            # A batch has one type for whatever is wrong with params.
            return RowError("invalid_request_error", error.message)
        try:
            answered = self.message(checked, caller)
        except AnswerError as error:
            return RowError(error.error_type, error.message)
        return ALTERED[name](answered) if name in ALTERED else answered


def result_line(row: Row, outcome: Outcome) -> ResultLine:
    """Show a request's outcome as a line of the results file."""
    match outcome:
        case Answer():
            message = outcome.message(row.params, service_tier="batch")
            return ResultLine(row.custom_id, Succeeded(message))
        case RowError(error_type, message):
            request_id = content_id("req", row.custom_id.encode(), bytes([row.attempt % 256]))
            body = error_body(error_type, message, request_id=request_id)
            return ResultLine(row.custom_id, Errored(body))
        case "canceled":
            return ResultLine(row.custom_id, Canceled())
        case "expired":
            return ResultLine(row.custom_id, Expired())
