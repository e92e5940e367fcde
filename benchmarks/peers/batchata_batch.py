"""Answer a Parquet file with batchata: one job a row, as many of them in a batch as the API takes."""

import sys

import pandas as pd
from batchata import Batch

source, out, folder = sys.argv[1:]
frame = pd.read_parquet(source)
# The one model of its list that is nearest to the others' choice.
batch = Batch(results_dir=f"{folder}/results", max_parallel_batches=1, items_per_batch=100_000)
batch.set_state(file=f"{folder}/state.json", reuse_state=False)
batch.set_default_params(model="claude-3-5-haiku-20241022", max_tokens=64, temperature=0.0)
for prompt in frame["prompt"]:
    batch.add_job(messages=[{"role": "user", "content": prompt}])
results = batch.run().results()
answers = {result.job_id: result.raw_response for result in results["completed"]}
frame["response"] = [answers.get(job.id) for job in batch.jobs]
frame.to_parquet(out)
