"""A ledger in a file: SQLite, where one transaction writes at a time."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from claude_pipeline.database import DIGITS, PATIENCE_SECONDS, Database
from claude_pipeline.errors import StoreError

SQLITE = "sqlite"  # what names a ledger in the store's own file
# The numbers from 0 to before ?1, at most 2^24; counting by recursion takes more than twice as long.
_NUMBERS = f"""
WITH bytes (i) AS (VALUES {", ".join(f"({byte})" for byte in range(256))}),
numbers (i) AS (
    SELECT high.i * 65536 + middle.i * 256 + low.i
    FROM bytes AS high CROSS JOIN bytes AS middle CROSS JOIN bytes AS low
    WHERE high.i * 65536 < ?1 AND high.i * 65536 + middle.i * 256 < ?1 AND high.i * 65536 + middle.i * 256 + low.i < ?1
)
"""

_CLAIM = f"""
{_NUMBERS}
INSERT INTO claims (account, address, shard, position)
SELECT
    ?2,
    substr(?3, 16 * i + 1, 16),
    CAST(substr(?4, {DIGITS} * i + 1, {DIGITS}) AS INTEGER),
    CAST(substr(?5, {DIGITS} * i + 1, {DIGITS}) AS INTEGER)
FROM numbers WHERE true
ON CONFLICT (account, address) DO UPDATE
SET shard = excluded.shard, position = excluded.position, failed = 0 WHERE claims.failed > 0
"""

_FIND_CLAIMS = f"""
{_NUMBERS}
SELECT i, shard, position, failed
FROM numbers CROSS JOIN claims ON account = ?2 AND address = substr(?3, 16 * i + 1, 16)
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

    @property
    def url(self) -> str:
        """What names it."""
        return SQLITE

    def now(self) -> float:
        """Return the database's clock, which is this host's: seconds since the epoch."""
        ((seconds,),) = self.rows("SELECT (julianday('now') - 2440587.5) * 86400.0")
        return float(seconds)

    def claim(self, account: int, addresses: bytes, shards: bytes, positions: bytes) -> int:
        """Claim requests, whose addresses ascend, unless others have them; return how many were won.

        One statement over all of them takes a third of the time of one for each.
        """
        with self._cursor() as cursor:
            cursor.execute(_CLAIM, (len(addresses) // 16, account, addresses, shards, positions))
            (won,) = cursor.execute("SELECT changes()").fetchone()
            return int(won)

    def find_claims(self, account: int, addresses: bytes) -> list[tuple[int, int, int, int]]:
        """Return the claims on some requests, whose addresses ascend."""
        return self.rows(_FIND_CLAIMS, (len(addresses) // 16, account, addresses))

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
