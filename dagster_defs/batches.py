"""Answers to the table: `summaries` of all of it, `questions` module by module, and `first_questions` at once.

`levels` is YAML, in `defs`.
"""

import dagster as dg

from claude_pipeline.dagster import build_batch_defs, build_stream_asset
from claude_pipeline.demo import MAX_TOKENS, MODEL, TEMPLATE

summaries = build_batch_defs(
    key="summaries",
    upstream="documentation",
    template=TEMPLATE,
    model=MODEL,
    max_tokens=MAX_TOKENS,
    max_batch_requests=400,
    group_name="standard_library",
    minimum_interval_seconds=10,
)

questions = build_batch_defs(
    key="questions",
    upstream="documentation",
    partitions_def=dg.StaticPartitionsDefinition(["asyncio", "logging", "os", "ssl"]),
    partition_column="module",
    template="Ask one question that this answers:\n\n{docstring}",
    model=MODEL,
    max_tokens=MAX_TOKENS,
    group_name="questions",
    minimum_interval_seconds=10,
)

first_questions = build_stream_asset(
    key="first_questions",
    upstream="documentation",
    limit=10,
    template="Ask one question that this answers:\n\n{docstring}",
    model=MODEL,
    max_tokens=MAX_TOKENS,
    group_name="questions",
)
