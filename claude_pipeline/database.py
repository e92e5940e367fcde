"""The ledger's database: its transactions and statements, whatever server or file it is.

The SQL is what SQLite and PostgreSQL share, written as SQLite takes it; what differs between them stands in `sqlite`
and `postgres`.
"""

import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from claude_pipeline.errors import StoreError
from claude_pipeline.migrations import MIGRATIONS, SCHEMA, SCHEMA_VERSION

PATIENCE_SECONDS = 60.0

DIGITS = 10

Parameters = tuple[object, ...]


class Database(ABC):
    """One connection to the ledger, shared by this process's threads; a transaction at a time.

    Every call raises StoreError when the ledger cannot be used, or another process holds it too long.

    Attributes:
        name: What errors call the ledger.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = threading.RLock()
        self._in_transaction = False

    @property
    @abstractmethod
    def url(self) -> str:
        """What names it to whoever opens it as well; it may hold a password."""

    @abstractmethod
    def now(self) -> float:
        """Return the database's clock: seconds since the epoch."""

    @abstractmethod
    def claim(self, account: int, addresses: bytes, shards: bytes, positions: bytes) -> int:
        """Claim requests, whose addresses ascend, 16 bytes each, unless others have them; return how many were won.

        For each, in ten digits: the shard that is to have it, and its position there.
        """

    @abstractmethod
    def find_claims(self, account: int, addresses: bytes) -> list[tuple[int, int, int, int]]:
        """Return the claims on some requests, whose addresses ascend, 16 bytes each.

        Of a claim: which of the requests it is on, the shard, the position in it, and why it failed.
        """

    @abstractmethod
    def _begin(self) -> None:
        """Begin a transaction, the only one that writes until its end."""

    @abstractmethod
    def _commit(self) -> None:
        """Make what the transaction wrote durable."""

    @abstractmethod
    def _roll_back(self) -> None:
        """Undo what the transaction wrote, if there is one."""

    @abstractmethod
    def _cursor(self) -> AbstractContextManager[Any]:
        """Give a cursor, and turn the driver's errors into ours."""

    @abstractmethod
    def _in_dialect(self, sql: str) -> str:
        """Write a statement as the driver takes it."""

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run statements as one: all of them or none. One inside another is part of it.

        What it reads stays true until it ends, since no other transaction writes meanwhile.
        """
        with self._lock:
            if self._in_transaction:
                yield
                return
            try:
                self._begin()
                self._in_transaction = True
                yield
                self._commit()
            except BaseException:
                self._roll_back()
                raise
            finally:
                self._in_transaction = False

    def run(self, sql: str, parameters: Parameters = ()) -> int:
        """Execute a statement; return how many rows it touched."""
        with self._cursor() as cursor:
            return int(cursor.execute(self._in_dialect(sql), parameters).rowcount)

    def run_many(self, sql: str, parameters: Iterable[Parameters]) -> int:
        """Execute a statement for each set of parameters; return how many rows were touched in all."""
        with self._cursor() as cursor:
            cursor.executemany(self._in_dialect(sql), parameters)
            return int(cursor.rowcount)

    def rows(self, sql: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with self._cursor() as cursor:
            cursor.execute(self._in_dialect(sql), parameters)
            found: list[tuple[Any, ...]] = cursor.fetchall()
            return found

    def meta(self) -> dict[str, str]:
        """Return what the ledger says of itself."""
        return dict(self.rows("SELECT key, value FROM meta"))

    def create(self, **meta: str) -> None:
        """Make the tables of a new ledger, of this version."""
        self._run_all(SCHEMA)
        known = {"schema_version": str(SCHEMA_VERSION), "store_id": uuid.uuid4().hex, **meta}
        self.run_many("INSERT INTO meta VALUES (?, ?)", list(known.items()))

    def migrate(self) -> None:
        """Bring the ledger to this version.

        Raises:
            StoreError: A newer version made it.
        """
        with self.transaction():
            version = int(self.meta()["schema_version"])
            for step in range(version, SCHEMA_VERSION):
                self._run_all(MIGRATIONS[step])
            if version < SCHEMA_VERSION:
                self.run("UPDATE meta SET value = ? WHERE key = 'schema_version'", (str(SCHEMA_VERSION),))
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"The ledger {self.name} was made by a newer claude-pipeline (schema {version}; this one knows "
                f"{SCHEMA_VERSION}). Upgrade it: pip install -U claude-pipeline."
            )

    def _run_all(self, script: str) -> None:
        for statement in script.split(";\n"):
            if statement.strip():
                self.run(statement)


def assignments(changes: Mapping[str, Any]) -> str:
    """Write what SET takes; the values go in as parameters."""
    return ", ".join(f"{column} = ?" for column in changes)


def marks(values: Collection[object]) -> str:
    """Write a parameter mark for each value."""
    return ", ".join("?" * len(values))


def conditions(states: Collection[str] | None, account: int | None) -> tuple[str, tuple[object, ...]]:
    """Write the WHERE of states and account, with its parameters; empty for everything."""
    found, parameters = [], list[object]()
    if states is not None:
        found.append(f"state IN ({marks(states)})")
        parameters += states
    if account is not None:
        found.append("account = ?")
        parameters.append(account)
    return (" WHERE " + " AND ".join(found) if found else ""), tuple(parameters)
