"""The definitions: a table, its submission, its answers, and what is made of them."""

import dagster as dg

from claude_pipeline.dagster import build_batch_defs
from claude_pipeline.demo import MAX_TOKENS, MODEL, TEMPLATE
from dagster_defs.assets import documentation, longest_summaries
from dagster_defs.resources import SampleClaudeResource

defs = dg.Definitions.merge(
    build_batch_defs(
        key="summaries",
        upstream="documentation",
        template=TEMPLATE,
        model=MODEL,
        max_tokens=MAX_TOKENS,
        max_batch_requests=400,
        group_name="standard_library",
        minimum_interval_seconds=10,
    ),
    dg.Definitions(
        assets=[documentation, longest_summaries],
        schedules=[
            dg.ScheduleDefinition(
                name="summaries_nightly",
                job_name="summaries_submit_job",
                cron_schedule="0 2 * * *",
                execution_timezone="UTC",
            )
        ],
        resources={"claude": SampleClaudeResource()},
        executor=dg.in_process_executor,
    ),
)
