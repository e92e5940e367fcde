"""Answer a Parquet file with steadybatch: a `Runner` with a checkpoint, whose results come in the order of the rows.

It takes nothing but JSON for an answer, so the text is its one field.
"""

import sys

import pandas as pd
from steadybatch import Request, Runner
from steadybatch.providers.anthropic_batch import AnthropicBatch

SCHEMA = {
    "type": "object",
    "properties": {"response": {"type": "string"}},
    "required": ["response"],
    "additionalProperties": False,
}

source, out, folder = sys.argv[1:]
frame = pd.read_parquet(source)
requests = [
    Request(key=str(row), messages=[{"role": "user", "content": prompt}], max_tokens=64)
    for row, prompt in zip(frame["id"], frame["prompt"], strict=True)
]
runner = Runner(
    AnthropicBatch(), "claude-haiku-4-5", response_schema=SCHEMA, checkpoint=f"{folder}/job.sqlite", poll_every=0.2
)
frame["response"] = [(result.data or {}).get("response") for result in runner.run(requests).results]
frame.to_parquet(out)
