"""Every error that claude-pipeline raises on purpose, the tree on top.

PipelineError
├── InputError          the table, its columns, the template or the parameters
│   ├── MissingColumnError
│   ├── TooManyRowsError
│   └── UnknownFieldError
├── OutputError         the place where answers should be written
├── CredentialsError    nobody to ask as
├── ApiError            the API refused or could not be reached
├── AccountError        a job of another account
├── StoreError          the store cannot be used
│   ├── UnknownJobError
│   └── PlaceError      an object on S3 or GCS; as an input or output it is one of the errors above
├── ResultsError        results that do not agree with what was sent
├── JobBlockedError     a job that waits for its user
└── WaitTimeoutError    a job that has not ended in time

PipelineWarning         what is probably not meant, but can be done
"""

from collections.abc import Sequence
from difflib import get_close_matches


class PipelineError(Exception):
    """Something that the user can mend; its text says what and how."""


class InputError(PipelineError):
    """The input cannot become requests."""


class MissingColumnError(InputError):
    """A column was named that the input does not have."""

    def __init__(self, column: str, *, source: str, columns: Sequence[str]) -> None:
        super().__init__(f"No column {column!r} in {source}. It has: {', '.join(columns) or 'no columns'}.")


class UnknownFieldError(InputError):
    """A template names a field that is no column."""

    def __init__(self, field: str, *, source: str, columns: Sequence[str], what: str = "The template") -> None:
        super().__init__(
            f"{what}'s field {{{field}}} is no column of {source}. It has: {', '.join(columns)}. "
            "Braces around anything but a bare name are text."
        )


class TooManyRowsError(InputError):
    """A table is too large to be streamed."""

    def __init__(self, *, source: str, rows: int, max_rows: int) -> None:
        super().__init__(
            f"{source} has {rows:,} rows, but max_rows is {max_rows:,}: nothing was asked. Submit it as a batch, at "
            "half the price, or ask only its first rows with limit=."
        )


class OutputError(PipelineError):
    """The answers cannot be written there."""


class CredentialsError(PipelineError):
    """No API key was found."""

    def __init__(self) -> None:
        super().__init__(
            "No credentials for the Anthropic API. Set ANTHROPIC_API_KEY, pass client=, "
            "or try it out for nothing with `claude-pipeline demo`."
        )


class ApiError(PipelineError):
    """The API refused, or could not be reached; nothing was lost.

    Attributes:
        status: The HTTP status that it answered with; None when there was no answer to speak of.
        error_type: What it called the error, such as `overloaded_error`.
        code: What `error.details.error_code` said.
        retry_after: Seconds that it asks to wait, if it does.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        error_type: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error_type = error_type
        self.code = code
        self.retry_after = retry_after


class AccountError(PipelineError):
    """The job belongs to another account than the client's."""

    def __init__(self, job_id: str, *, account: str, client_account: str) -> None:
        super().__init__(
            f"{job_id} belongs to account {account!r}, but this client acts for {client_account!r}. "
            "Use the API key or base URL it was submitted with."
        )


class StoreError(PipelineError):
    """The store cannot be used as it is."""


class UnknownJobError(StoreError):
    """There is no such job in the store."""

    def __init__(self, job_id: str, *, store: str, known: Sequence[str]) -> None:
        nearest = get_close_matches(job_id, known, n=1, cutoff=0.4)
        hint = f" Did you mean {nearest[0]}?" if nearest else " `claude-pipeline list` shows its jobs."
        super().__init__(f"No job {job_id!r} in the store {store}.{hint}")


class PlaceError(StoreError):
    """An object on S3 or GCS cannot be read or written."""


class ResultsError(PipelineError):
    """A batch's results do not agree with what was sent.

    Attributes:
        strangers: How many lines belong to requests that were not sent.
        missing: The positions whose line did not come, if nothing else is wrong.
    """

    def __init__(self, message: str, *, strangers: int = 0, missing: frozenset[int] = frozenset()) -> None:
        super().__init__(message)
        self.strangers = strangers
        self.missing = missing


class WaitTimeoutError(PipelineError):
    """A job had not ended when the time was up; its batches run on."""

    def __init__(self, job_id: str, *, seconds: float) -> None:
        super().__init__(
            f"{job_id} has not ended after {seconds:g} seconds; its batches run on. Wait again to pick it up."
        )


class JobBlockedError(PipelineError):
    """A job goes on only when its user has mended something and resumed it."""

    def __init__(self, job_id: str, *, reason: str) -> None:
        super().__init__(f"{job_id} is blocked: {reason}")


class PipelineWarning(UserWarning):
    """Something that is probably not meant, but can be done."""
