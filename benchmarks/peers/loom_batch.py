"""Answer a Parquet file with loom-batch: `submit_file`, then `fetch` until it is done."""

import sys
import time

from loom import Loom

source, out, folder = sys.argv[1:]
client = Loom("anthropic", "claude-haiku-4-5", max_tokens=64, cache_dir=f"{folder}/cache")
job = client.submit_file(source, column="prompt", output=out)
while not job.fetch().done:
    time.sleep(0.2)
