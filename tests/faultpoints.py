"""The moments at which a process changes the world: one hook sees every commit, rename, sending and answer.

A process that dies between two of them leaves what it would have left at the first.
"""

import itertools
import os
import socket
import sqlite3
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from claude_pipeline.postgres import PostgresDatabase

_COMMIT = PostgresDatabase._commit.__code__
_EXECUTES = {"execute", "executemany"}
_TRAFFIC = {"send", "sendall", "recv"}
_RENAMES = {"rename", "replace", "link"}
_NAMES = _EXECUTES | _TRAFFIC | _RENAMES

OnPoint = Callable[[int, str], None]


class FaultPoints:
    """Watches the calling thread, and calls `on_point` with the number and the name of each point that it passes."""

    def __init__(self, on_point: OnPoint) -> None:
        self._on_point = on_point
        self._count = 0
        self._watched: set[sqlite3.Connection] = set()
        self._commits = False
        self._awaits_answer = False

    def install(self) -> None:
        sys.setprofile(self._see)

    def _pass(self, name: str) -> None:
        self._count += 1
        self._on_point(self._count, name)

    def _see(self, frame: FrameType, event: str, called: Any) -> None:
        """Look at each call of a function that is written in C, and at its return; of ours at commits on a server."""
        if frame.f_code is _COMMIT and event in {"call", "return"}:
            self._pass("before commit" if event == "call" else "after commit")
        elif event in {"c_call", "c_return"} and called.__name__ in _NAMES:
            self._see_call(called.__self__, called.__name__, "before" if event == "c_call" else "after")

    def _see_call(self, owner: Any, name: str, when: str) -> None:
        if name in _EXECUTES and isinstance(owner, sqlite3.Cursor | sqlite3.Connection):
            self._see_statement(owner, when)
        elif name in _TRAFFIC and isinstance(owner, socket.socket):
            self._see_traffic(name, when)
        elif name in _RENAMES and owner is sys.modules[os.rename.__module__]:
            self._pass(f"{when} {name}")

    def _see_statement(self, on: sqlite3.Cursor | sqlite3.Connection, when: str) -> None:
        connection = on.connection if isinstance(on, sqlite3.Cursor) else on
        if connection not in self._watched:
            self._watched.add(connection)
            connection.set_trace_callback(lambda sql: self._see_sql(sql, connection))
        if when == "after" and self._commits:
            self._commits = False
            self._pass("after commit")

    def _see_sql(self, sql: str, connection: sqlite3.Connection) -> None:
        """Look at a statement before it runs; a change outside a transaction is one of its own."""
        alone = not connection.in_transaction and not sql.startswith(("BEGIN", "SELECT", "--"))
        if sys.getprofile() and (sql == "COMMIT" or alone):
            self._commits = True
            self._pass("before commit")

    def _see_traffic(self, name: str, when: str) -> None:
        """Count an answer once, at its first bytes: who dies there has received nothing."""
        if name != "recv":
            self._awaits_answer = True
            self._pass(f"{when} {name}")
        elif when == "after" and self._awaits_answer:
            self._awaits_answer = False
            self._pass("after answer")


def strike(signal_number: int, *, at: int, among: str) -> OnPoint:
    """Let the process send itself a signal at one point, counted among all or those of one name."""
    left = itertools.count(at, -1)

    def on_point(_number: int, name: str) -> None:
        if among in {name, ""} and next(left) == 1:
            os.kill(os.getpid(), signal_number)

    return on_point
