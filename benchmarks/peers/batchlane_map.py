"""Answer a Parquet file with batchlane: `map` with a checkpoint, whose answers come in the order of the rows."""

import os
import sys

import batchlane
import pandas as pd
from batchlane.adapters import anthropic

# Its address is a constant of its own.
anthropic.BASE_URL = f"{os.environ['ANTHROPIC_BASE_URL']}/v1/messages/batches"
source, out, folder = sys.argv[1:]
frame = pd.read_parquet(source)
frame["response"] = batchlane.map(
    "anthropic/claude-haiku-4-5",
    frame["prompt"],
    checkpoint=f"{folder}/job.jsonl",
    poll_interval=0.2,
    max_tokens=64,
)
frame.to_parquet(out)
