"""A job to cancel batches from the page: ending a run leaves them, and what they will cost."""

from typing import Any

import dagster as dg
from pydantic import Field

import claude_pipeline as cp
from claude_pipeline.dagster.answers import OPEN, Answers
from claude_pipeline.dagster.partitions import partition_of
from claude_pipeline.dagster.resource import ClaudeResource
from claude_pipeline.dagster.submission import in_words


class CancelConfig(dg.Config):
    """Which jobs to cancel."""

    partitions: list[str] = Field(default=[], description="Only those of these partitions; without any, all.")


def build_cancel_job(answers: Answers) -> dg.JobDefinition:
    """Build the job that cancels the open batches of an asset; what was answered is kept, and materialized."""
    name, key = answers.key.to_python_identifier(), answers.key.to_user_string()

    @dg.op(name=f"{name}_cancel")
    def cancel(context: dg.OpExecutionContext, config: CancelConfig, claude: ClaudeResource) -> None:
        chosen = [status for status in answers.all_jobs(claude) if _is_chosen(status, answers.key, config)]
        if not chosen:
            context.log.info("No job of %s is open.", key)
        for status in chosen:
            with in_words(), claude.open_job(status.job_id) as job:
                context.log.info(repr(job))
                job.cancel()

    @dg.job(
        name=f"{name}_cancel_job",
        executor_def=dg.in_process_executor,
        description=f"Cancels the batches of {key} that have not ended. What was answered is kept, and is billed.",
    )
    def cancel_job() -> None:
        cancel()

    canceling: Any = cancel_job
    return canceling  # type: ignore[no-any-return]


def _is_chosen(status: "cp.Status", key: dg.AssetKey, config: CancelConfig) -> bool:
    is_open = status.state in OPEN or status.state == "blocked"
    return is_open and (not config.partitions or partition_of(key, status.name) in config.partitions)
