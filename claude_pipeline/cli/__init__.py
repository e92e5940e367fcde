"""The `claude-pipeline` command: parse, call the one public function, print."""

from claude_pipeline.cli.asking import run, submit
from claude_pipeline.cli.comparing import compare
from claude_pipeline.cli.estimating import estimate
from claude_pipeline.cli.following import advance, budget, cancel, list_jobs, resume, status, wait, write
from claude_pipeline.cli.mending import ask_again, failed
from claude_pipeline.cli.pruning import prune
from claude_pipeline.cli.rehearsing import sandbox
from claude_pipeline.cli.shell import Shell
from claude_pipeline.cli.spending import costs
from claude_pipeline.cli.streaming import stream
from claude_pipeline.cli.trying import demo

main = Shell(
    name="claude-pipeline",
    help="""A column of prompts becomes a column of responses, through Message Batches.

    \b
    Try it, with no key and no cost:
      claude-pipeline demo
    Ask a question of every row and write the answers beside them:
      claude-pipeline run reviews.parquet --template "Label: {text}" \\
        --model claude-haiku-4-5 --max-tokens 16 --out labeled.parquet
    Send now, look in later:
      claude-pipeline submit reviews.parquet --prompt-column prompt \\
        --model claude-haiku-4-5 --max-tokens 16
      claude-pipeline status
      claude-pipeline wait JOB && claude-pipeline write JOB --out labeled.csv
    """,
    epilog="""\b
    Exit codes: 0 every row answered · 1 an error · 2 bad usage
    3 ended with rows unanswered · 4 not ended · 130 interrupted, batches run on
    """,
    commands=[
        run,
        submit,
        stream,
        estimate,
        list_jobs,
        status,
        wait,
        advance,
        write,
        failed,
        ask_again,
        compare,
        cancel,
        resume,
        costs,
        budget,
        prune,
        sandbox,
        demo,
    ],
)

__all__ = ["main"]
