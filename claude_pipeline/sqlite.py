"""A ledger in a file: SQLite, where one transaction writes at a time."""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from claude_pipeline.database import PATIENCE_SECONDS, Database
from claude_pipeline.errors import StoreError

_CLAIM = """
WITH RECURSIVE numbers (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM numbers WHERE i + 1 < ?)
INSERT INTO claims (account, address, shard, position)
SELECT ?, substr(?, 16 * i + 1, 16) AS address, ?, i FROM numbers WHERE true ORDER BY address
ON CONFLICT (account, address) DO UPDATE
SET shard = excluded.shard, position = excluded.position, failed = 0 WHERE claims.failed > 0
"""

_FIND_CLAIMS = """
WITH RECURSIVE numbers (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM numbers WHERE i + 1 < ?)
SELECT address, shard, position, failed
FROM numbers CROSS JOIN claims ON account = ? AND address = substr(?, 16 * i + 1, 16)
"""


class SqliteDatabase(Database):
    """A connection to a ledger in a file, which is made if it is not there."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        try:
            self._connection = sqlite3.connect(
                path, timeout=PATIENCE_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._use_wal()
            self._connection.execute("PRAGMA synchronous=FULL")
        except sqlite3.DatabaseError as error:
            raise StoreError(f"Cannot use the ledger {path}: {error}.") from error
        with self.transaction():
            if not self.rows("SELECT 1 FROM sqlite_master WHERE name = 'meta'"):
                self.create()
            self.migrate()

    def __del__(self) -> None:
        if connection := getattr(self, "_connection", None):
            connection.close()

    def _use_wal(self) -> None:
        """Switch the file to WAL, for which SQLite waits for nobody: several may open a new ledger at once."""
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError as error:
                if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > until:
                    raise
                time.sleep(0.01)
            else:
                return

    def now(self) -> float:
        """Return the database's clock, which is this host's: seconds since the epoch."""
        ((seconds,),) = self.rows("SELECT (julianday('now') - 2440587.5) * 86400.0")
        return float(seconds)

    def claim(self, account: int, addresses: bytes, shard: int) -> int:
        """Claim requests, 16 bytes each, for a shard, unless another one has them; return how many were won.

        One statement over all of them takes a third of the time of one for each.
        """
        with self._cursor() as cursor:
            cursor.execute(_CLAIM, (len(addresses) // 16, account, addresses, shard))
            (won,) = cursor.execute("SELECT changes()").fetchone()
            return int(won)

    def find_claims(self, account: int, addresses: Sequence[bytes]) -> list[tuple[Any, ...]]:
        """Return who claims some requests."""
        return self.rows(_FIND_CLAIMS, (len(addresses), account, b"".join(addresses))) if addresses else []

    def _begin(self) -> None:
        self.run("BEGIN IMMEDIATE")

    def _commit(self) -> None:
        self.run("COMMIT")

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    @contextmanager
    def _cursor(self) -> Iterator[sqlite3.Cursor]:
        with self._lock, closing(self._connection.cursor()) as cursor:
            try:
                yield cursor
            except sqlite3.DatabaseError as error:
                raise StoreError(
                    f"Cannot use the ledger {self.name}: {error}. What was recorded is safe; "
                    "run the same command again once this is mended."
                ) from error

    def _in_dialect(self, sql: str) -> str:
        return sql
