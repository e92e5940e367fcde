"""The job as a user's script: submit, wait, write. Its arguments: INPUT OUTPUT URL STORE TASK."""

import sys

import claude_pipeline as cp

from .task import MAX_TOKENS, MODEL, SCHEMA


def main() -> None:
    """Answer the prompts of a table."""
    source, out, url, store, task = sys.argv[1:]
    job = cp.submit(
        source,
        prompt_column="prompt",
        model=MODEL,
        max_tokens=MAX_TOKENS[task],
        output_schema=SCHEMA if task == "fields" else None,
        store=store,
        base_url=url,
    )
    job.wait(poll_interval=0.2)
    job.write(out)


if __name__ == "__main__":
    main()
