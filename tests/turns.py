"""Whether somebody is in the middle of writing a ledger, and in which states its shards are."""

import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg

from claude_pipeline.postgres import _TURN

STATES = "SELECT state, batch_id FROM shards ORDER BY shard"


def is_free(store: Path, ledger: str, *, patience: float = 0.0) -> bool:
    """Tell whether the ledger may be written: who is frozen in a transaction cannot be overtaken."""
    if ledger != "sqlite":
        with closing(psycopg.connect(ledger)) as connection:
            return connection.execute("SELECT pg_try_advisory_xact_lock(%s)", [_TURN]).fetchone() == (True,)
    with closing(sqlite3.connect(store / "ledger.sqlite", timeout=patience, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
    return True


def shard_states(store: Path, ledger: str) -> list[tuple[str, str | None]]:
    """List the states of shards, and their batches; none when there are no tables yet."""
    if ledger != "sqlite":
        with closing(psycopg.connect(ledger)) as connection:
            there = connection.execute("SELECT to_regclass('claude_pipeline.shards') IS NOT NULL").fetchone() == (True,)
            found = connection.execute(STATES.replace("shards ", "claude_pipeline.shards ", 1)) if there else ()
            return list(found)
    with closing(sqlite3.connect(store / "ledger.sqlite", timeout=0)) as connection:
        there = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'shards'").fetchall()
        return connection.execute(STATES).fetchall() if there else []
