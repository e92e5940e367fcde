"""The ledger's database: its tables, its transactions, its versions.

The SQL is what SQLite and PostgreSQL share, written as SQLite takes it; what differs between them stands in `sqlite`
and `postgres`.
"""

import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from claude_pipeline.errors import StoreError

SCHEMA_VERSION = 5
PATIENCE_SECONDS = 60.0

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE accounts (
    account INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    polled_at DOUBLE PRECISION NOT NULL DEFAULT 0
);
CREATE TABLE jobs (
    job_id TEXT PRIMARY KEY,
    account INTEGER NOT NULL REFERENCES accounts,
    name TEXT,
    state TEXT NOT NULL,
    reason TEXT,
    settings TEXT NOT NULL,
    rows BIGINT NOT NULL,
    skipped BIGINT NOT NULL DEFAULT 0,
    invalid BIGINT NOT NULL DEFAULT 0,
    refusals TEXT NOT NULL DEFAULT '[]',
    duplicates BIGINT NOT NULL DEFAULT 0,
    reused BIGINT NOT NULL DEFAULT 0,
    requests BIGINT NOT NULL DEFAULT 0,
    unanswered BIGINT,
    changes BIGINT NOT NULL DEFAULT 0,
    asking INTEGER NOT NULL DEFAULT 0,
    owner TEXT,
    lease_until DOUBLE PRECISION,
    created_at DOUBLE PRECISION NOT NULL,
    submitted_at DOUBLE PRECISION NOT NULL,
    ended_at DOUBLE PRECISION,
    submitted_by TEXT,
    submitted_from TEXT,
    traceparent TEXT,
    announced_at DOUBLE PRECISION,
    pruned_at DOUBLE PRECISION
);
CREATE TABLE shards (
    shard INTEGER PRIMARY KEY AUTOINCREMENT,
    account INTEGER NOT NULL REFERENCES accounts,
    job_id TEXT NOT NULL REFERENCES jobs,
    state TEXT NOT NULL,
    asking INTEGER NOT NULL DEFAULT 0,
    attempt INTEGER NOT NULL,
    requests BIGINT NOT NULL,
    first_row BIGINT NOT NULL,
    last_row BIGINT NOT NULL,
    reason TEXT,
    not_before DOUBLE PRECISION NOT NULL DEFAULT 0,
    refusals INTEGER NOT NULL DEFAULT 0,
    owner TEXT,
    lease_until DOUBLE PRECISION,
    newest_batch_id TEXT,
    submitting_at DOUBLE PRECISION,
    api_ahead DOUBLE PRECISION,
    batch_id TEXT UNIQUE,
    stream_id TEXT,
    missing_from TEXT,
    cancel_wanted INTEGER NOT NULL DEFAULT 0,
    created_at DOUBLE PRECISION,
    ended_at DOUBLE PRECISION,
    succeeded BIGINT NOT NULL DEFAULT 0,
    errored BIGINT NOT NULL DEFAULT 0,
    canceled BIGINT NOT NULL DEFAULT 0,
    expired BIGINT NOT NULL DEFAULT 0,
    truncated BIGINT NOT NULL DEFAULT 0,
    refused BIGINT NOT NULL DEFAULT 0,
    paused BIGINT NOT NULL DEFAULT 0,
    misfits BIGINT NOT NULL DEFAULT 0,
    input_tokens BIGINT NOT NULL DEFAULT 0,
    output_tokens BIGINT NOT NULL DEFAULT 0,
    cache_read_tokens BIGINT NOT NULL DEFAULT 0,
    cache_write_tokens BIGINT NOT NULL DEFAULT 0,
    cache_saved_usd DOUBLE PRECISION DEFAULT 0,
    cost_usd DOUBLE PRECISION DEFAULT 0,
    reserved_usd DOUBLE PRECISION,
    collected_at DOUBLE PRECISION,
    pruned_at DOUBLE PRECISION,
    deleted_at DOUBLE PRECISION
);
CREATE INDEX shards_by_state ON shards (account, state);
CREATE INDEX shards_by_job ON shards (job_id);
CREATE TABLE members (shard INTEGER PRIMARY KEY REFERENCES shards, addresses BLOB NOT NULL, rows BLOB NOT NULL);
CREATE TABLE shard_models (
    shard INTEGER NOT NULL REFERENCES shards,
    model TEXT NOT NULL,
    answers BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    cache_read_tokens BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL,
    cost_usd DOUBLE PRECISION,
    list_usd DOUBLE PRECISION,
    PRIMARY KEY (shard, model)
);
CREATE TABLE job_shards (
    job_id TEXT NOT NULL REFERENCES jobs,
    shard INTEGER NOT NULL REFERENCES shards,
    PRIMARY KEY (job_id, shard)
) WITHOUT ROWID;
CREATE INDEX job_shards_by_shard ON job_shards (shard);
CREATE TABLE claims (
    account INTEGER NOT NULL,
    address BLOB NOT NULL,
    shard INTEGER NOT NULL,
    position INTEGER NOT NULL,
    failed INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (account, address)
) WITHOUT ROWID;
"""

# What brings a store of a version to the next one.
_MIGRATIONS = {
    1: """
ALTER TABLE accounts ADD COLUMN polled_at DOUBLE PRECISION NOT NULL DEFAULT 0;
ALTER TABLE shards ADD COLUMN missing_from TEXT;
ALTER TABLE shards ADD COLUMN api_ahead DOUBLE PRECISION
""",
    # A form is its parts in their order, of which the prompt was the only one that a row filled.
    2: """
ALTER TABLE jobs ADD COLUMN refusals TEXT NOT NULL DEFAULT '[]';
ALTER TABLE shards ADD COLUMN cache_read_tokens BIGINT NOT NULL DEFAULT 0;
ALTER TABLE shards ADD COLUMN cache_write_tokens BIGINT NOT NULL DEFAULT 0;
ALTER TABLE shards ADD COLUMN cache_saved_usd DOUBLE PRECISION DEFAULT 0;
ALTER TABLE shards ADD COLUMN reserved_usd DOUBLE PRECISION;
UPDATE jobs SET settings = json_set(settings, '$.form', json_object(
    'header', json_extract(settings, '$.form.header'),
    'betas', json_array(),
    'salt_column', NULL,
    'parts', json_array(
        json_extract(settings, '$.form.prefix'),
        json_object('type', 'text', 'template', json_extract(settings, '$.form.template')),
        json_extract(settings, '$.form.suffix')
    )
))
""",
    3: """
ALTER TABLE shards ADD COLUMN stream_id TEXT;
ALTER TABLE jobs ADD COLUMN asking INTEGER NOT NULL DEFAULT 0;
ALTER TABLE shards ADD COLUMN asking INTEGER NOT NULL DEFAULT 0;
ALTER TABLE shards ADD COLUMN truncated BIGINT NOT NULL DEFAULT 0;
ALTER TABLE shards ADD COLUMN refused BIGINT NOT NULL DEFAULT 0;
ALTER TABLE shards ADD COLUMN paused BIGINT NOT NULL DEFAULT 0;
ALTER TABLE shards ADD COLUMN misfits BIGINT NOT NULL DEFAULT 0
""",
    4: """
ALTER TABLE jobs ADD COLUMN submitted_by TEXT;
ALTER TABLE jobs ADD COLUMN submitted_from TEXT;
ALTER TABLE jobs ADD COLUMN traceparent TEXT;
ALTER TABLE jobs ADD COLUMN announced_at DOUBLE PRECISION;
ALTER TABLE jobs ADD COLUMN pruned_at DOUBLE PRECISION;
ALTER TABLE shards ADD COLUMN collected_at DOUBLE PRECISION;
ALTER TABLE shards ADD COLUMN pruned_at DOUBLE PRECISION;
ALTER TABLE shards ADD COLUMN deleted_at DOUBLE PRECISION;
UPDATE shards SET collected_at = COALESCE(
    ended_at,
    created_at,
    (SELECT COALESCE(jobs.ended_at, jobs.submitted_at) FROM jobs WHERE jobs.job_id = shards.job_id)
) WHERE state = 'collected';
CREATE TABLE shard_models (
    shard INTEGER NOT NULL REFERENCES shards,
    model TEXT NOT NULL,
    answers BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    cache_read_tokens BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL,
    cost_usd DOUBLE PRECISION,
    list_usd DOUBLE PRECISION,
    PRIMARY KEY (shard, model)
)
""",
}

DIGITS = 10

Numbers = npt.NDArray[np.int64]
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

    @abstractmethod
    def now(self) -> float:
        """Return the database's clock: seconds since the epoch."""

    @abstractmethod
    def claim(self, account: int, addresses: bytes, shards: Numbers, positions: Numbers) -> int:
        """Claim requests, whose addresses ascend, 16 bytes each, unless others have them; return how many were won.

        For each: the shard that is to have it, and its position there.
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
        self._run_all(_SCHEMA)
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
                self._run_all(_MIGRATIONS[step])
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


def digits_of(numbers: Numbers) -> bytes:
    """Write numbers as ten digits each, which is how many of them become one parameter."""
    digits = np.empty((len(numbers), DIGITS), dtype=np.uint8)
    for place in range(DIGITS):
        digits[:, place] = numbers // 10 ** (DIGITS - 1 - place) % 10 + ord("0")
    return digits.tobytes()


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
