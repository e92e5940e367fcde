"""Answer a Parquet file with llm-batch-py: the same `run` again until every row is completed.

It knows typed answers only, so the text is their one field.
"""

import sys
import time

import polars as pl
from llm_batch_py import (
    AnthropicConfig,
    LockConfig,
    ResultCacheStoreConfig,
    Runner,
    StructuredOutputJob,
    structured_template,
)
from pydantic import BaseModel

STATUS = "llm_batch_py_status"


class Answer(BaseModel):
    """What is asked for."""

    response: str


source, out, folder = sys.argv[1:]
job = StructuredOutputJob(
    name="reviews",
    key_cols=["id"],
    input_df=pl.read_parquet(source),
    prompt_builder=structured_template(messages="{{ row.prompt }}", name="review", version="v1"),
    output_model=Answer,
    provider=AnthropicConfig(model="claude-haiku-4-5", max_output_tokens=64),
    result_cache=ResultCacheStoreConfig(root_uri=f"{folder}/cache"),
    lock=LockConfig(ttl_seconds=3600),
)
runner = Runner()
while not (frame := runner.run(job, metadata_columns=[STATUS]))[STATUS].is_in(["completed", "cached"]).all():
    time.sleep(0.2)
frame.write_parquet(out)
