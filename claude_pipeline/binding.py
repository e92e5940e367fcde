"""Which ledger a store has: the file in it, or one on a server, and then these two know each other by an id."""

import os
import socket
from collections.abc import Callable

import msgspec

from claude_pipeline.database import Database
from claude_pipeline.errors import StoreError
from claude_pipeline.places import Place, is_url
from claude_pipeline.postgres import PostgresDatabase, check_url

SQLITE = "sqlite"


class Identity(msgspec.Struct, frozen=True):
    """What a store with a ledger on a server keeps of it: the id of both, and where the ledger is."""

    store_id: str
    ledger: str


def choose_ledger(named: str | None) -> str | None:
    """Choose the ledger: the one named, else CLAUDE_PIPELINE_LEDGER; a URL, or None for the file in the store.

    Raises:
        StoreError: It can be none.
    """
    chosen = named or os.environ.get("CLAUDE_PIPELINE_LEDGER") or SQLITE
    if chosen == SQLITE:
        return None
    check_url(chosen)
    return chosen


def read_identity(path: Place) -> Identity | None:
    """Read what a store keeps of its ledger; None if that is no server's.

    Raises:
        StoreError: It cannot be read.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Identity)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise StoreError(f"{path} cannot be read ({error}). Bring it back from a backup.") from error


def check_choice(store: str, url: str | None, known: Identity | None, *, has_file: bool) -> None:
    """Make sure that a store is not opened with another ledger than its own.

    Raises:
        StoreError: It is.
    """
    if url is None and known is not None:
        raise StoreError(
            f"The ledger of the store {store} is in PostgreSQL at {known.ledger}. Give its URL with --ledger, ledger= "
            "or CLAUDE_PIPELINE_LEDGER."
        )
    if url is not None and has_file:
        raise StoreError(
            f"The store {store} has its ledger in the file ledger.sqlite, and what it has paid for is on record there "
            "alone. Leave out the ledger's URL (or give 'sqlite'), or choose another store for it."
        )


def open_on_server(url: str, store: str, known: Identity | None, *, keep: Callable[[Identity], None]) -> Database:
    """Open the ledger of a store on a server; make one for a store that has none, and let the store keep its id.

    Raises:
        StoreError: It is another store's, or the server cannot be used.
    """
    database = PostgresDatabase(url)
    here = store if is_url(store) else f"{store} on {socket.gethostname()}"
    with database.transaction():
        if database.has_tables():
            store_id = _recognise(database, here, known)
        elif known is not None:
            raise StoreError(
                f"There is no ledger at {database.name}, but the store {store} has one: it was at {known.ledger}. Mend "
                "the URL, or bring the database back from a backup."
            )
        else:
            database.create(store=here)
            store_id = database.meta()["store_id"]
        database.migrate()
    database.hold(store_id)
    if known != (identity := Identity(store_id, database.name)):
        keep(identity)
    return database


def _recognise(database: Database, here: str, known: Identity | None) -> str:
    """Return the id of a ledger that is this store's: of its id, or made here by one who was killed too soon."""
    meta = database.meta()
    store_id, there = meta["store_id"], meta["store"]
    was_begun_here = known is None and there == here and not database.rows("SELECT 1 FROM jobs LIMIT 1")
    if not was_begun_here and (known is None or known.store_id != store_id):
        raise StoreError(
            f"The ledger {database.name} is that of the store {there} (id {store_id[:8]}), not of {here} "
            f"({f'id {known.store_id[:8]}' if known else 'which has no store.json with its id'}). Name its own store, "
            "or give this one a database of its own."
        )
    if there != here:
        database.run("UPDATE meta SET value = ? WHERE key = 'store'", (here,))
    return store_id
