"""Make a small store with the code of an earlier version, which is on PYTHONPATH, in the folder that is named.

It holds a job that is answered, with a duplicate and a blank prompt, one that nothing was sent of, and a stream where
there are such.
"""

import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pyarrow as pa

import claude_pipeline as cp

ASKED = {"model": "claude-haiku-4-5", "max_tokens": 16}
ANSWERED = ["Name a color.", "Name a river.", "Name a color.", "", "Name a fish."]
OPEN = ["Name a river.", "Name a tree.", "Name a star."]


def table(texts):
    """Make a column of prompts."""
    return pa.table({"text": pa.array(texts, pa.string())})


def make(store):
    """Make the store."""
    with cp.Sandbox(answer=lambda params: "To " + params["messages"][0]["content"]) as server:
        options = {**ASKED, "store": store, "base_url": server.url}
        cp.submit(table(ANSWERED), template="{text}", name="answered", **options).wait(poll_interval=0)
        if hasattr(cp, "stream"):
            list(cp.stream(table(ANSWERED[:1]), template="Live: {text}", name="streamed", **options))
        server.fail_next("create", 529)
        cp.submit(table(OPEN), template="{text}", name="open", **options)


def tidy(store):
    """Leave one file of the ledger, and nothing that is empty or belongs to this machine."""
    with closing(sqlite3.connect(store / "ledger.sqlite", isolation_level=None)) as ledger:
        ledger.execute("PRAGMA journal_mode=DELETE")
        ledger.execute("PRAGMA page_size=512")
        ledger.execute("UPDATE shards SET owner = NULL, lease_until = NULL, not_before = 0")
        ledger.execute("UPDATE jobs SET owner = NULL, lease_until = NULL")
        ledger.execute("VACUUM")
    shutil.rmtree(store / "spool")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    make(folder)
    tidy(folder)
