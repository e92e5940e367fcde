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
    PipelineWarning,
    PlaceError,
    ResultsError,
    StoreError,
    TooManyRowsError,
    UnknownFieldError,
    UnknownJobError,
    WaitTimeoutError,
)
from claude_pipeline.status import BatchStatus, RequestCounts, Status

if TYPE_CHECKING:
    from claude_pipeline.billing import costs
    from claude_pipeline.ceilings import BudgetStatus, list_budgets, set_budget
    from claude_pipeline.checkups import doctor
    from claude_pipeline.comparing import Comparison, compare
    from claude_pipeline.estimates import Estimate, Range
    from claude_pipeline.estimating import estimate
    from claude_pipeline.findings import Checkup, Finding
    from claude_pipeline.jobs import Job, advance, list_jobs, open_job, poll
    from claude_pipeline.outputs import check_output
    from claude_pipeline.pruning import Pruned, PrunedJob, prune
    from claude_pipeline.recovered import RecoveredBatch, Recovery
    from claude_pipeline.recovery import recover
    from claude_pipeline.sandbox import Sandbox
    from claude_pipeline.sources import Source
    from claude_pipeline.store import find_store
    from claude_pipeline.streamed import StreamedRow
    from claude_pipeline.streaming import Stream, StreamOptions, stream
    from claude_pipeline.submitting import SubmitOptions, submit
    from claude_pipeline.transport import make_client
    from claude_pipeline.watching import stream_frame

__version__ = version("claude-pipeline")

__all__ = [
    "AccountError",
    "ApiError",
    "BatchStatus",
    "BudgetStatus",
    "Checkup",
    "Comparison",
    "CredentialsError",
    "Estimate",
    "Finding",
    "InputError",
    "Job",
    "JobBlockedError",
    "MissingColumnError",
    "OutputError",
    "PipelineError",
    "PipelineWarning",
    "PlaceError",
    "Pruned",
    "PrunedJob",
    "Range",
    "RecoveredBatch",
    "Recovery",
    "RequestCounts",
    "ResultsError",
    "Sandbox",
    "Source",
    "Status",
    "StoreError",
    "Stream",
    "StreamOptions",
    "StreamedRow",
    "SubmitOptions",
    "TooManyRowsError",
    "UnknownFieldError",
    "UnknownJobError",
    "WaitTimeoutError",
    "advance",
    "check_output",
    "compare",
    "costs",
    "doctor",
    "estimate",
    "find_store",
    "list_budgets",
    "list_jobs",
    "make_client",
    "open_job",
    "poll",
    "prune",
    "recover",
    "set_budget",
    "stream",
    "stream_frame",
    "submit",
]

_LATE = {
    "BudgetStatus": "ceilings",
    "Checkup": "findings",
    "Comparison": "comparing",
    "Estimate": "estimates",
    "Finding": "findings",
    "Job": "jobs",
    "Pruned": "pruning",
    "PrunedJob": "pruning",
    "Range": "estimates",
    "RecoveredBatch": "recovered",
    "Recovery": "recovered",
    "Sandbox": "sandbox",
    "Source": "sources",
    "Stream": "streaming",
    "StreamOptions": "streaming",
    "StreamedRow": "streamed",
    "SubmitOptions": "submitting",
    "advance": "jobs",
    "check_output": "outputs",
    "compare": "comparing",
    "doctor": "checkups",
    "costs": "billing",
    "estimate": "estimating",
    "find_store": "store",
    "list_budgets": "ceilings",
    "list_jobs": "jobs",
    "make_client": "transport",
    "open_job": "jobs",
    "poll": "jobs",
    "recover": "recovery",
    "prune": "pruning",
    "set_budget": "ceilings",
    "stream": "streaming",
    "stream_frame": "watching",
    "submit": "submitting",
}


def __getattr__(name: str) -> object:
    """Import what needs Arrow or a web server when it is first used."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
