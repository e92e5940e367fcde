"""The definitions: a table, answers to it in several ways, what is made of them, and when."""

from pathlib import Path

import dagster as dg

from dagster_defs import batches
from dagster_defs.assets import documentation, longest_summaries
from dagster_defs.resources import SampleClaudeResource

nightly = dg.ScheduleDefinition(
    name="summaries_nightly",
    job_name="summaries_submit_job",
    cron_schedule="0 2 * * *",
    execution_timezone="UTC",
)

defs = dg.Definitions.merge(
    dg.Definitions(
        assets=[documentation, longest_summaries, batches.first_questions],
        schedules=[nightly],
        resources={"claude": SampleClaudeResource()},
        executor=dg.in_process_executor,
    ),
    batches.summaries,
    batches.questions,
    dg.load_from_defs_folder(path_within_project=Path(__file__).parent),
)
