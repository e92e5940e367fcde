"""Answer a Parquet file with the batch component of dagster-community-components, between two assets."""

import sys
from pathlib import Path

import dagster as dg
import pandas as pd
from dagster_community_components.assets.ai.anthropic_llm_batch.component import AnthropicLlmBatchComponent

source, out, folder = sys.argv[1:]


@dg.asset
def reviews() -> pd.DataFrame:
    """Read the input."""
    return pd.read_parquet(source)


@dg.asset
def labeled(reviews: pd.DataFrame, answers: pd.DataFrame) -> None:
    """Put the answers beside the rows."""
    found = answers.set_index(answers["custom_id"].astype("int64"))["raw_output"]
    reviews.assign(response=reviews["id"].map(found)).to_parquet(out)


component = AnthropicLlmBatchComponent(
    asset_name="answers",
    upstream_asset_key="reviews",
    prompt_column="prompt",
    id_column="id",
    model="claude-haiku-4-5",
    max_tokens=64,
    wait_for_completion=True,
    poll_interval_seconds=1,
)
answers = component.build_defs(None).assets or []
Path(folder).mkdir(exist_ok=True)
with dg.DagsterInstance.local_temp(folder) as instance:
    sys.exit(not dg.materialize([reviews, *answers, labeled], instance=instance).success)
