"""The main job as a user's script: submit, wait, write.

Its arguments: INPUT OUTPUT URL STORE.
"""

import sys

import claude_pipeline as cp


def main() -> None:
    """Answer the prompts of a Parquet file."""
    source, out, url, store = sys.argv[1:]
    job = cp.submit(source, prompt_column="prompt", model="claude-haiku-4-5", max_tokens=64, store=store, base_url=url)
    job.wait(poll_interval=0.2)
    job.write(out)


if __name__ == "__main__":
    main()
