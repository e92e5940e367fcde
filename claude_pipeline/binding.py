"""Which ledger a store has: the file in it, or one on a server, and then these two know each other by an id."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import msgspec

from claude_pipeline.database import Database
from claude_pipeline.errors import StoreError
from claude_pipeline.places import Place, RemotePath, is_url
from claude_pipeline.postgres import PostgresDatabase, check_url
from claude_pipeline.sqlite import SQLITE


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


def open_on_server(url: str, path: Place, *, keep: Callable[[Identity], None]) -> Database:
    """Open the ledger of a store on a server; make one for a store that has none, and let the store keep its id.

    Raises:
        StoreError: It is another store's, or the server cannot be used.
    """
    database = PostgresDatabase(url)
    store = str(path.absolute())
    here = _here(store)
    with database.transaction():
        known = read_identity(path / "store.json")  # by now: whoever has just begun the ledger writes it before any job
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


def has_ledger(path: Place) -> bool:
    """Tell whether a store has a ledger, in it or on a server."""
    return (isinstance(path, Path) and (path / "ledger.sqlite").exists()) or (path / "store.json").exists()


def results_ids(path: Place) -> set[str]:
    """Name the batches and streams of which a store has results."""
    if isinstance(path, RemotePath):
        found = (path / "results").below()
        return {each.name.removesuffix(".parquet") for each in found if each.suffix == ".parquet"}
    return {each.stem for each in (path / "results").glob("[!.]*.parquet")}


def check_no_ledger_is_lost(path: Place) -> None:
    """Make sure that no ledger is begun beside answers that it would not know.

    Raises:
        StoreError: There are such answers.
    """
    # Looked at again at the end: another process may have just begun the store.
    if not has_ledger(path) and results_ids(path) and not has_ledger(path):
        raise StoreError(
            f"The store {path} has answers, but its ledger is missing, and without it they would be paid for again. "
            "Bring ledger.sqlite (or store.json, if the ledger is in PostgreSQL) back from a backup, or name another "
            "store and let `claude-pipeline recover` read into it what the API still has."
        )


def check_absent(path: Place, ledger: str | None) -> None:
    """Make sure that where there is no store none was lost.

    Raises:
        StoreError: There are answers without their ledger, or the ledger on a server is that of a store.
    """
    check_no_ledger_is_lost(path)
    if (url := choose_ledger(ledger)) is None:
        return
    database = PostgresDatabase(url)
    with database.transaction():
        if database.has_tables():
            _recognise(database, _here(str(path.absolute())), read_identity(path / "store.json"))


def _here(store: str) -> str:
    return store if is_url(store) else f"{store} on {socket.gethostname()}"


def _recognise(database: Database, here: str, known: Identity | None) -> str:
    """Return the id of a ledger that is this store's: of its id, or made here by one who was killed too soon."""
    meta = database.meta()
    store_id, there = meta["store_id"], meta["store"]
    was_begun_here = known is None and there == here and not database.rows("SELECT 1 FROM jobs LIMIT 1")
    if not was_begun_here and (known is None or known.store_id != store_id):
        raise StoreError(
            f"The ledger {database.name} is that of the store {there} (id {store_id[:8]}), not of {here} "
            f"({f'id {known.store_id[:8]}' if known else 'which has no store.json with its id'}). Name its own store, "
            "or give this one a database of its own. If that store is lost, bring it back from a backup, or let "
            "`claude-pipeline recover` read into a new one what the API still has."
        )
    if there != here:
        database.run("UPDATE meta SET value = ? WHERE key = 'store'", (here,))
    return store_id
