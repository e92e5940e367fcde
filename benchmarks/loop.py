"""The same job by the loop of Anthropic's batch documentation, around a pandas frame.

Its arguments: INPUT OUTPUT URL STORE TASK. It is the loop at its best: a column is iterated, never
`iterrows()`, and nothing is retried or kept.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pandas as pd
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from anthropic.types.messages.batch_create_params import Request

from .task import FIELDS, MAX_TOKENS, MODEL, OUTPUT_CONFIG

MAX_BATCH_REQUESTS = 100_000


def build_requests(prompts: pd.Series, *, max_tokens: int = 64, **asked: Any) -> list[Request]:  # noqa: ANN401 - the API's
    """Make one request a prompt, named by its row."""
    return [
        Request(
            custom_id=f"row-{row}",
            params=MessageCreateParamsNonStreaming(
                model=MODEL, max_tokens=max_tokens, messages=[{"role": "user", "content": prompt}], **asked
            ),
        )
        for row, prompt in prompts.items()
    ]


def await_end(client: anthropic.Anthropic, batch_id: str) -> None:
    """Poll until the batch has ended."""
    while client.messages.batches.retrieve(batch_id).processing_status != "ended":
        time.sleep(0.2)


def answers(client: anthropic.Anthropic, requests: list[Request]) -> Iterator[tuple[str, str]]:
    """Send the requests in batches and yield each `custom_id` with its answer."""
    for first in range(0, len(requests), MAX_BATCH_REQUESTS):
        batch = client.messages.batches.create(requests=requests[first : first + MAX_BATCH_REQUESTS])
        await_end(client, batch.id)
        for line in client.messages.batches.results(batch.id):
            if line.result.type == "succeeded" and line.result.message.content[0].type == "text":
                yield line.custom_id, line.result.message.content[0].text


def add_fields(frame: pd.DataFrame, responses: dict[str, str]) -> None:
    """Put the fields of the answers beside the rows."""
    parsed = [json.loads(responses[f"row-{row}"]) for row in frame.index]
    for name in FIELDS:
        frame[name] = [fields[name] for fields in parsed]


def main() -> None:
    """Answer the prompts of a table."""
    source, out, url, _store, task = sys.argv[1:]
    is_csv = Path(source).suffix == ".csv"
    frame = pd.read_csv(source) if is_csv else pd.read_parquet(source)
    client = anthropic.Anthropic(base_url=url)
    asked = {"output_config": OUTPUT_CONFIG} if task == "fields" else {}
    requests = build_requests(frame["prompt"], max_tokens=MAX_TOKENS[task], **asked)
    responses = dict(answers(client, requests))
    if task == "fields":
        add_fields(frame, responses)
    else:
        frame["response"] = [responses.get(f"row-{row}") for row in frame.index]
    if is_csv:
        frame.to_csv(out, index=False)
    else:
        frame.to_parquet(out)


if __name__ == "__main__":
    main()
