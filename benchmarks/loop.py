"""The same job by the loop of Anthropic's batch documentation, around a pandas frame.

Its arguments: INPUT OUTPUT URL STORE. It is the loop at its best: a column is iterated, never
`iterrows()`, and nothing is retried or kept.
"""

import sys
import time
from collections.abc import Iterator

import anthropic
import pandas as pd
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from anthropic.types.messages.batch_create_params import Request

MAX_BATCH_REQUESTS = 100_000


def build_requests(prompts: pd.Series) -> list[Request]:
    """Make one request a prompt, named by its row."""
    return [
        Request(
            custom_id=f"row-{row}",
            params=MessageCreateParamsNonStreaming(
                model="claude-haiku-4-5", max_tokens=64, messages=[{"role": "user", "content": prompt}]
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


def main() -> None:
    """Answer the prompts of a Parquet file."""
    source, out, url, _store = sys.argv[1:]
    frame = pd.read_parquet(source)
    client = anthropic.Anthropic(base_url=url)
    responses = dict(answers(client, build_requests(frame["prompt"])))
    frame["response"] = [responses.get(f"row-{row}") for row in frame.index]
    frame.to_parquet(out)


if __name__ == "__main__":
    main()
