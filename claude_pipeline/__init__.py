"""A column of prompts becomes a column of responses: every row answered, nothing paid for twice, at half price."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

from claude_pipeline.errors import (
    AccountError,
    ApiError,
    CredentialsError,
    InputError,
    JobBlockedError,
    MissingColumnError,
    OutputError,
    PipelineError,
    ResultsError,
    StoreError,
    UnknownFieldError,
    UnknownJobError,
    WaitTimeoutError,
)
from claude_pipeline.status import BatchStatus, RequestCounts, Status

if TYPE_CHECKING:
    from claude_pipeline.batches import make_client
    from claude_pipeline.jobs import Job, advance, list_jobs, open_job, poll
    from claude_pipeline.outputs import check_output
    from claude_pipeline.sandbox import Sandbox
    from claude_pipeline.sources import Source
    from claude_pipeline.store import find_store
    from claude_pipeline.submitting import SubmitOptions, submit

__version__ = version("claude-pipeline")

__all__ = [
    "AccountError",
    "ApiError",
    "BatchStatus",
    "CredentialsError",
    "InputError",
    "Job",
    "JobBlockedError",
    "MissingColumnError",
    "OutputError",
    "PipelineError",
    "RequestCounts",
    "ResultsError",
    "Sandbox",
    "Source",
    "Status",
    "StoreError",
    "SubmitOptions",
    "UnknownFieldError",
    "UnknownJobError",
    "WaitTimeoutError",
    "advance",
    "check_output",
    "find_store",
    "list_jobs",
    "make_client",
    "open_job",
    "poll",
    "submit",
]

_LATE = {
    "Job": "jobs",
    "Sandbox": "sandbox",
    "Source": "sources",
    "SubmitOptions": "submitting",
    "advance": "jobs",
    "check_output": "outputs",
    "find_store": "store",
    "list_jobs": "jobs",
    "make_client": "batches",
    "open_job": "jobs",
    "poll": "jobs",
    "submit": "submitting",
}


def __getattr__(name: str) -> object:
    """Import what needs Arrow or a web server when it is first used."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
