"""The store: a folder of ledger, inputs and results, or the same on an object store with its ledger on a server.

<store>/ledger.sqlite                  or, with a ledger on a server, store.json with its id
<store>/jobs/<job_id>/input.parquet    the input as submitted
<store>/jobs/<job_id>/foreign.parquet  rows that no shard of the job answers: another's request, or why none
<store>/jobs/<job_id>/foreign-1.parquet  the same of rows that are asked again, and -2 of those asked once more
<store>/results/<batch_id>.parquet     one row a request, in the shard's order; for a streamed one <stream_id>.parquet
<store>/results/<stream_id>.jsonl      what is answered while it streams; on an object store an object an answer
"""

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import msgspec

from claude_pipeline.binding import (
    Identity,
    check_choice,
    check_no_ledger_is_lost,
    choose_ledger,
    has_ledger,
    open_on_server,
    read_identity,
    results_ids,
)
from claude_pipeline.copies import local_folder, sending
from claude_pipeline.database import Database
from claude_pipeline.errors import StoreError
from claude_pipeline.files import TEMPORARY, cannot_write, make_file, make_folder, replacing
from claude_pipeline.ledger import Ledger
from claude_pipeline.parquets import Reader
from claude_pipeline.places import Place, RemotePath, Upload, is_url, remote_path
from claude_pipeline.sqlite import SqliteDatabase

FOLDER = ".claude_pipeline"
_LEFT_BEHIND_SECONDS = 2 * 24 * 3600


class Store:
    """One store, open."""

    def __init__(self, path: Place, ledger: str | None = None) -> None:
        url, known = choose_ledger(ledger), read_identity(path / "store.json")
        check_choice(str(path), url, known, has_file=isinstance(path, Path) and (path / "ledger.sqlite").exists())
        check_no_ledger_is_lost(path)
        self.path = path
        private = path.name == FOLDER or isinstance(path, RemotePath)
        self._folder_mode, self.file_mode = (0o700, 0o600) if private else (0o777, 0o666)
        self._spool = local_folder("spool") if isinstance(path, RemotePath) else path / "spool"
        if isinstance(path, Path):
            self._make(path, has_file=url is None)
        self.ledger = Ledger(self._open_ledger(path, url))
        self._readers: dict[tuple[object, ...], Reader] = {}

    def _open_ledger(self, path: Place, url: str | None) -> Database:
        if url is not None:
            return open_on_server(url, path, keep=self._keep)
        if isinstance(path, RemotePath):
            raise StoreError(
                f"The store {path} needs a ledger in PostgreSQL, since no object can be one. "
                "Give its URL with --ledger, ledger= or CLAUDE_PIPELINE_LEDGER."
            )
        return SqliteDatabase(path / "ledger.sqlite")

    def _make(self, path: Path, *, has_file: bool) -> None:
        try:
            for folder in (path, *(path / name for name in ("jobs", "results", "spool"))):
                make_folder(folder, mode=self._folder_mode)
            if has_file:
                make_file(path / "ledger.sqlite", mode=self.file_mode)
        except FileNotFoundError as error:
            raise StoreError(
                f"There is no folder {path.parent} to make a store in. Create it, or mend its name."
            ) from error
        except OSError as error:
            raise cannot_write(path, error) from error

    @staticmethod
    def exists(path: Place) -> bool:
        """Tell whether there is a store; looking makes none."""
        return has_ledger(path)

    def _keep(self, identity: Identity) -> None:
        with self.replacing(self.path / "store.json") as temporary:
            temporary.write_bytes(msgspec.json.encode(identity))

    def replacing(self, path: Place) -> AbstractContextManager[Path]:
        """Give a new file to write to, which takes the name of one of the store's when it is whole."""
        return sending(path) if isinstance(path, RemotePath) else replacing(path, mode=self.file_mode)

    def input_path(self, job_id: str) -> Place:
        """Return where a job's input lies."""
        return self.path / "jobs" / job_id / "input.parquet"

    @contextmanager
    def reader(self, job_id: str, columns: Collection[str]) -> Iterator[Reader]:
        """Lend a reader of a job's input: the one that was lent last, if that read the same and was not cut short."""
        path = self.input_path(job_id)
        of = (job_id, frozenset(columns), _version(path))
        reader = self._readers.pop(of, None) or Reader(path, columns)
        yield reader
        self._readers = {of: reader} if reader.has_more else {}

    def foreign_path(self, job_id: str, *, asking: int = 0) -> Place:
        """Return where a job keeps the rows that it does not ask itself, in the first asking or a later one."""
        return self.path / "jobs" / job_id / (f"foreign-{asking}.parquet" if asking else "foreign.parquet")

    def results_path(self, results_id: str) -> Place:
        """Return where the results of a batch or a stream lie."""
        return self.path / "results" / f"{results_id}.parquet"

    def journal_path(self, stream_id: str) -> Place:
        """Return where the answers of a stream lie while it runs: a file, or what would be a folder of objects."""
        return self.path / "results" / f"{stream_id}.jsonl"

    def new_input_path(self) -> Path:
        """Return a new name for an input whose job is still to be found."""
        self.sweep()
        return self._spool / f"{secrets.token_hex(8)}.parquet"

    def sweep(self) -> None:
        """Remove what killed processes left behind, once nobody can still be at it."""
        for path in self.left_behind():
            with suppress(OSError):  # another process sweeps as well, or may not be swept up after
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def left_behind(self) -> list[Path]:
        """List what killed processes left behind more than two days ago."""
        left: Iterator[Path] = self._spool.iterdir()
        if isinstance(self.path, Path):
            left = chain(left, self.path.glob(f"*/{TEMPORARY}"), self.path.glob(f"jobs/*/{TEMPORARY}"))
        found = []
        for path in left:
            with suppress(OSError):  # another process sweeps as well
                if time.time() - path.stat().st_mtime > _LEFT_BEHIND_SECONDS:
                    found.append(path)
        return found

    def free_bytes(self) -> int:
        """Return how much room there is for it, or for what is on its way to an object store."""
        return shutil.disk_usage(self._spool).free

    def keep_input(self, path: Path, job_id: str) -> None:
        """Move an input to its job, unless the job has it."""
        target = self.input_path(job_id)
        if isinstance(target, Path):
            self._make_folder(target.parent)
        if target.exists():
            return
        if not path.exists():
            raise StoreError(f"{job_id} was pruned at this very moment. Submit the same again.")
        with self.replacing(target) as temporary:
            path.rename(temporary)

    def _make_folder(self, folder: Path) -> None:
        try:
            make_folder(folder, mode=self._folder_mode)
        except OSError as error:
            raise cannot_write(folder, error) from error

    def keep_results(self, path: Path, results_id: str) -> None:
        """Move the results of a batch to where they belong."""
        with self.replacing(self.results_path(results_id)) as temporary:
            path.rename(temporary)

    @contextmanager
    def bringing_results(self, path: Path, results_id: str) -> Iterator[Callable[[], None]]:
        """Send results to where they belong, and give what lets them appear there; without that nothing is left.

        Sending may take longer than a transaction lasts, and letting them appear takes moments.
        """
        target = self.results_path(results_id)
        if isinstance(target, Path):
            yield lambda: self.keep_results(path, results_id)
            return
        upload = Upload(target, path)
        try:
            yield upload.commit
        finally:
            upload.discard()

    # What is pruned

    def job_ids(self) -> set[str]:
        """Name the jobs that have files."""
        if isinstance(self.path, RemotePath):
            return {str(path).split("/")[-2] for path in (self.path / "jobs").below()}
        return {path.name for path in (self.path / "jobs").iterdir() if path.is_dir()}

    def results_ids(self) -> set[str]:
        """Name the batches and streams that have results."""
        return results_ids(self.path)

    def job_bytes(self, job_id: str) -> int:
        """Return how much room a job's own files take."""
        folder = self.path / "jobs" / job_id
        return sum(map(_size_of, folder.below() if isinstance(folder, RemotePath) else folder.glob("*")))

    def results_bytes(self, results_id: str) -> int:
        """Return how much room results take."""
        return _size_of(self.results_path(results_id))

    def remove_job(self, job_id: str) -> None:
        """Remove a job's own files."""
        self._remove(self.path / "jobs" / job_id)

    def remove_results(self, results_id: str) -> None:
        """Remove results."""
        self._remove(self.results_path(results_id))

    def _remove(self, path: Place) -> None:
        if isinstance(path, RemotePath):
            for file in (path, *path.below()):
                file.unlink(missing_ok=True)
            return
        try:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        except FileNotFoundError:
            pass  # another process removes it as well
        except OSError as error:
            raise cannot_write(path.parent, error) from error

    @contextmanager
    def spool(self) -> Iterator[BinaryIO]:
        """Open a file that is gone when the body is done, or the process."""
        try:
            with tempfile.TemporaryFile(dir=self._spool) as file:
                yield file
        except OSError as error:
            raise cannot_write(self._spool.parent, error) from error

    @contextmanager
    def spool_folder(self) -> Iterator[Path]:
        """Make a folder that is gone when the body is done."""
        try:
            with tempfile.TemporaryDirectory(dir=self._spool) as folder:
                yield Path(folder)
        except OSError as error:
            raise cannot_write(self._spool.parent, error) from error


def _size_of(path: Place) -> int:
    """Return how many bytes are there; none if somebody has just removed them."""
    try:
        return path.version()[1] if isinstance(path, RemotePath) else path.stat().st_size
    except FileNotFoundError:
        return 0


def _version(path: Place) -> object:
    """Return what tells whether a file was changed since; nothing of one that is not there."""
    with suppress(OSError):  # whoever reads it says so
        if isinstance(path, RemotePath):
            return path.version()
        told = path.stat()
        return told.st_ino, told.st_size, told.st_mtime_ns
    return None


def find_store(path: str | os.PathLike[str] | None) -> Place:
    """Choose the store: the one named, else CLAUDE_PIPELINE_STORE, else the nearest upwards, else a new one here."""
    named = path or os.environ.get("CLAUDE_PIPELINE_STORE")
    if named and is_url(named):
        return remote_path(named)
    if named:
        return Path(named).expanduser().absolute()
    here = Path.cwd()
    return next((found for folder in (here, *here.parents) if (found := folder / FOLDER).is_dir()), here / FOLDER)
