"""A ledger on a PostgreSQL server: writers take turns on it, as they do on a file."""

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from claude_pipeline.database import DIGITS, PATIENCE_SECONDS, Database, Parameters
from claude_pipeline.errors import StoreError

if TYPE_CHECKING:
    import psycopg

SCHEMES = ("postgresql", "postgres")
_EXAMPLE = "postgresql://user@host/database"
_SECRETS = ("password", "sslpassword", "passfile")
_FOLDER = "claude_pipeline"  # the schema in which the tables are, so that they meet no others
_TURN = int.from_bytes(b"claude-p")
# The level in which each statement sees what was committed before it: the first that reads comes after the turn.
_BEGIN = f"BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock({_TURN})"
_SESSION = f"""
SET search_path TO {_FOLDER};
SET synchronous_commit TO on;
SET lock_timeout TO '{PATIENCE_SECONDS:.0f}s';
SET idle_in_transaction_session_timeout TO '{PATIENCE_SECONDS:.0f}s'
"""
# A host that is gone without a word is noticed within a minute; the URL may say otherwise.
_NETWORK = {"connect_timeout": 10, "keepalives_idle": 20, "keepalives_interval": 10, "keepalives_count": 3}
_NETWORK |= {"tcp_user_timeout": 60_000}
_DIALECT = {
    "?": "%s",
    "BLOB": "BYTEA",
    " WITHOUT ROWID": "",
    "INTEGER PRIMARY KEY AUTOINCREMENT": "INTEGER GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    "account INTEGER PRIMARY KEY": "account INTEGER GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
}
_CLAIM = f"""
INSERT INTO claims (account, address, shard, position)
SELECT
    %s,
    substring(addresses FROM 16 * i + 1 FOR 16),
    convert_from(substring(shards FROM {DIGITS} * i + 1 FOR {DIGITS}), 'UTF8')::bigint,
    convert_from(substring(positions FROM {DIGITS} * i + 1 FOR {DIGITS}), 'UTF8')::bigint
FROM (SELECT %s::bytea AS addresses, %s::bytea AS shards, %s::bytea AS positions) AS given, generate_series(0, %s) AS i
ON CONFLICT (account, address) DO UPDATE
SET shard = excluded.shard, position = excluded.position, failed = 0 WHERE claims.failed > 0
"""
_FIND_CLAIMS = "SELECT address, shard, position, failed FROM claims WHERE account = ? AND address = ANY(?)"

# What a password may hide in is refused: whatever is taken for a host or a database is shown.
_HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[^\s:@/?#\[\],]*)(?::\d+)?"
_URL = re.compile(rf"(?:[^\s:@/?#\[\]]*(?::[^\s:@/?#\[\]]*)?@)?{_HOST}(?:,{_HOST})*/[^\s:@/?#]+(?:\?[^\s@?#]*)?")
_LAST_WORDS = {"FATAL", "PANIC"}

_T = TypeVar("_T")


def check_url(url: str) -> None:
    """Make sure that a text is the URL of a PostgreSQL database. No more of it is shown than its scheme.

    Raises:
        StoreError: It is not.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES:
        begins = f" begins with {scheme}://" if separator else " is no URL"
        raise StoreError(f"The ledger{begins}. Give {_EXAMPLE}, or 'sqlite' for the file in the store.")
    if not _URL.fullmatch(rest):
        raise StoreError(
            f"The ledger's URL is not {_EXAMPLE}. In a user or a password, write @ : / ? # [ ] and % as %40 %3A "
            "%2F %3F %23 %5B %5D and %25."
        )


def without_password(url: str) -> str:
    """Return a ledger's URL as it may be shown."""
    if url.partition("://")[0] not in SCHEMES:
        return url
    parts = urlsplit(url)
    user, at, address = parts.netloc.rpartition("@")
    query = [(key, value) for key, value in parse_qsl(parts.query) if key not in _SECRETS]
    shown = parts._replace(netloc=f"{user.partition(':')[0]}{at}{address}", query=urlencode(query, quote_via=quote))
    return shown.geturl()


def place_of(url: str) -> str:
    """Name the server and the database of a URL."""
    parts = urlsplit(url)
    address = parts.netloc.rpartition("@")[2] or dict(parse_qsl(parts.query)).get("host", "")
    return f"postgresql://{address}/{parts.path.strip('/')}"


def _driver() -> Any:  # noqa: ANN401  the module psycopg, which is not loaded before it is needed
    try:
        import psycopg  # noqa: PLC0415
    except ImportError as error:
        raise StoreError(
            f"A ledger in PostgreSQL needs psycopg ({error}): pip install 'claude-pipeline[postgres]'."
        ) from error
    return psycopg


class PostgresDatabase(Database):
    """A connection to a database on a server. It is opened again when it was lost between two transactions."""

    def __init__(self, url: str) -> None:
        check_url(url)
        super().__init__(place_of(url))
        self._psycopg = _driver()
        self._url = url
        self._secrets = _secrets_of(url)
        self._store_id: str | None = None
        self._connection = self._connect()

    def __del__(self) -> None:
        if (connection := getattr(self, "_connection", None)) is not None and self._pid == os.getpid():
            connection.close()

    # The connection

    def _connect(self) -> "psycopg.Connection[Any]":
        given = {key for key, _ in parse_qsl(urlsplit(self._url).query)}
        network = {key: value for key, value in _NETWORK.items() if key not in given}
        try:
            connection: psycopg.Connection[Any] = self._psycopg.connect(
                self._url, autocommit=True, client_encoding="utf8", application_name="claude-pipeline", **network
            )
            with _closed_on_failure(connection):
                connection.execute(_SESSION)
        except self._psycopg.Error as error:
            raise StoreError(
                f"Cannot reach the ledger {self.name}: {self._words(error)}. Mend its URL or the server and run the "
                "same command again; what was recorded is safe."
            ) from None  # a traceback would show the URL
        self._pid = os.getpid()
        return connection

    def _reconnect(self) -> None:
        """Connect anew, with patience: a server that takes over for another, or starts again, needs its time."""
        with suppress(self._psycopg.Error):
            if self._pid == os.getpid():
                self._connection.close()
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                self._connection = self._connect()
            except StoreError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.5)
            else:
                break
        if self._store_id is not None and self.meta().get("store_id") != self._store_id:
            self._connection.close()
            raise StoreError(f"The ledger at {self.name} is another one by now. Mend its URL or the server.")

    def _is_lost(self) -> bool:
        return bool(self._connection.closed) or self._pid != os.getpid()

    def _on_a_connection(self, step: Callable[[], _T]) -> _T:
        """Do what may be done twice, on a new connection if the old one is found to be lost."""
        if self._is_lost():
            self._reconnect()
        try:
            return step()
        except StoreError:
            if not self._is_lost():
                raise
        self._reconnect()
        return step()

    # Transactions

    def _begin(self) -> None:
        self._on_a_connection(lambda: self._execute(_BEGIN))

    def _commit(self) -> None:
        self._execute("COMMIT")

    def _roll_back(self) -> None:
        idle = self._psycopg.pq.TransactionStatus.IDLE
        with suppress(self._psycopg.Error):
            if not self._is_lost() and self._connection.info.transaction_status != idle:
                self._connection.execute("ROLLBACK")

    def _execute(self, sql: str) -> None:
        with self._cursor() as cursor:
            cursor.execute(sql)

    @contextmanager
    def _cursor(self) -> "Iterator[psycopg.Cursor[Any]]":
        with self._lock:
            try:
                with closing(self._connection.cursor()) as cursor:
                    yield cursor
            except self._psycopg.Error as error:
                if error.diag.severity_nonlocalized in _LAST_WORDS:
                    self._connection.close()
                raise StoreError(self._explain(error)) from error

    def _explain(self, error: "psycopg.Error") -> str:
        match error:
            case self._psycopg.errors.ReadOnlySqlTransaction():
                self._connection.close()  # once it is another server's turn, it is found by connecting anew
                return (
                    f"The ledger {self.name} cannot be written: its server is read-only, as a replica is. Name the "
                    "primary, or all hosts and target_session_attrs=read-write; what was recorded is safe."
                )
            case self._psycopg.errors.LockNotAvailable():
                return (
                    f"Another process has held the ledger {self.name} for {PATIENCE_SECONDS:.0f} seconds. What was "
                    "recorded is safe; run the same command again."
                )
        if self._is_lost():
            return (
                f"The connection to the ledger {self.name} was lost: {self._words(error)}. What was recorded is safe; "
                "run the same command again."
            )
        return (
            f"Cannot use the ledger {self.name}: {self._words(error)}. What was recorded is safe; "
            "run the same command again once this is mended."
        )

    def _words(self, error: "psycopg.Error") -> str:
        words = str(error).strip().partition("\n")[0].removesuffix(".") or type(error).__name__
        for secret in self._secrets:
            words = words.replace(secret, "***")
        return words

    # Statements

    def _in_dialect(self, sql: str) -> str:
        for theirs, ours in _DIALECT.items():
            sql = sql.replace(theirs, ours)
        return sql

    def run(self, sql: str, parameters: Parameters = ()) -> int:
        """Execute a statement, which takes its turn as a transaction does; return how many rows it touched."""
        with self.transaction():
            return super().run(sql, _adapted(parameters))

    def run_many(self, sql: str, parameters: Iterable[Parameters]) -> int:
        """Execute a statement for each set of parameters; return how many rows were touched in all."""
        with self.transaction():
            return super().run_many(sql, map(_adapted, parameters))

    def rows(self, sql: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        read = super().rows
        with self._lock:
            if self._in_transaction:
                return read(sql, _adapted(parameters))
            return self._on_a_connection(lambda: read(sql, _adapted(parameters)))

    @property
    def url(self) -> str:
        """What names it; it may hold a password."""
        return self._url

    def now(self) -> float:
        """Return the server's clock: seconds since the epoch."""
        ((seconds,),) = self.rows("SELECT extract(epoch FROM clock_timestamp())::double precision")
        return float(seconds)

    def claim(self, account: int, addresses: bytes, shards: bytes, positions: bytes) -> int:
        """Claim requests, whose addresses ascend, unless others have them; return how many were won."""
        with self._cursor() as cursor:
            return cursor.execute(_CLAIM, (account, addresses, shards, positions, len(addresses) // 16 - 1)).rowcount

    def find_claims(self, account: int, addresses: bytes) -> list[tuple[int, int, int, int]]:
        """Return the claims on some requests, whose addresses ascend."""
        places = {addresses[at : at + 16]: at // 16 for at in range(0, len(addresses), 16)}
        found = self.rows(_FIND_CLAIMS, (account, list(places)))
        return [(places[address], shard, position, failed) for address, shard, position, failed in found]

    # Whose ledger it is

    def has_tables(self) -> bool:
        """Tell whether there is a ledger in the database."""
        ((there,),) = self.rows(f"SELECT to_regclass('{_FOLDER}.meta') IS NOT NULL")
        return bool(there)

    def create(self, **meta: str) -> None:
        """Make the tables of a new ledger, in a schema of their own."""
        if not self.rows(f"SELECT 1 FROM pg_namespace WHERE nspname = '{_FOLDER}'"):
            self.run(f"CREATE SCHEMA {_FOLDER}")
        super().create(**meta)

    def hold(self, store_id: str) -> None:
        """Insist on the ledger of a store, whatever server there is behind the URL later."""
        self._store_id = store_id


@contextmanager
def _closed_on_failure(connection: "psycopg.Connection[Any]") -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.close()
        raise


def _secrets_of(url: str) -> list[str]:
    parts = urlsplit(url)
    query = [value for key, value in parse_qsl(parts.query) if key in _SECRETS]
    return [secret for secret in (parts.password, *query, os.environ.get("PGPASSWORD")) if secret]


def _adapted(parameters: Parameters) -> Parameters:
    """Write what PostgreSQL's text cannot hold, the character NUL, as the sign for what cannot be shown."""
    return tuple(
        value.replace("\0", "\N{REPLACEMENT CHARACTER}") if isinstance(value, str) else value for value in parameters
    )
