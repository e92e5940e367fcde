"""A store with many open jobs, and one look at all of them: `make URL STORE` or `poll URL STORE`.

`poll` prints the CPU seconds of the call alone, as in a sensor, whose process has everything loaded.
"""

import sys
import time

import pyarrow as pa
from anthropic import Anthropic

import claude_pipeline as cp

from .task import MODEL

JOBS, BATCHES_A_JOB = 100, 10


def make(client: Anthropic, store: str) -> None:
    """Submit every job, each in batches of one request."""
    for number in range(JOBS):
        table = pa.table({"prompt": [f"Job {number}, row {row}." for row in range(BATCHES_A_JOB)]})
        cp.submit(
            table,
            prompt_column="prompt",
            model=MODEL,
            max_tokens=64,
            store=store,
            client=client,
            preflight=False,
            max_batch_requests=1,
        )


def main() -> None:
    """Make the store, or look."""
    do, url, store = sys.argv[1:]
    with Anthropic(base_url=url, api_key="sandbox") as client:
        if do == "make":
            make(client, store)
            return
        started = time.process_time()
        jobs = cp.poll(store=store, client=client)
        sys.stdout.write(f"{time.process_time() - started}\n")
    if len(jobs) != JOBS or any(job.state != "in_progress" for job in jobs):
        sys.exit(f"{len(jobs)} of {JOBS} jobs are open.")


if __name__ == "__main__":
    main()
