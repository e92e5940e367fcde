"""A real table, the standard library's documentation, and what is made of its summaries."""

import dagster as dg
import pandas as pd

from claude_pipeline.dagster import ClaudeResource
from claude_pipeline.demo import standard_library


@dg.asset(kinds={"python", "pandas"}, group_name="standard_library")
def documentation() -> dg.MaterializeResult[pd.DataFrame]:
    """Every documented function, class and method of Python's standard library."""
    table = standard_library(rows=1000).to_pandas()
    return dg.MaterializeResult(value=table, metadata={"dagster/row_count": len(table)})


@dg.asset(
    deps=["summaries"],
    kinds={"pandas"},
    group_name="standard_library",
    automation_condition=dg.AutomationCondition.eager(),
)
def longest_summaries(claude: ClaudeResource) -> dg.MaterializeResult[pd.DataFrame]:
    """The modules whose parts take the most words to summarize. It runs by itself when the summaries are there."""
    summaries = pd.read_parquet(claude.answers_path("summaries"), columns=["module", "response"])
    words = summaries["response"].str.count(r"\S+")
    longest = words.groupby(summaries["module"]).mean().nlargest(10).round(1).rename("words").reset_index()
    table = "\n".join(["| module | words |", "| --- | --- |", *(f"| {m} | {w} |" for m, w in longest.to_numpy())])
    return dg.MaterializeResult(value=longest, metadata={"longest": dg.MetadataValue.md(table)})
