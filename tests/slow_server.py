"""A server that hangs in the middle of an upload, for as long as a test likes."""

import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from claude_pipeline.batches import CHUNK_BYTES

BATCH = {
    "id": "msgbatch_01",
    "processing_status": "in_progress",
    "request_counts": {"processing": 20},
    "created_at": datetime.now(UTC).isoformat(),
}


class SlowServer:
    """Answers GETs with an empty list, and reads the body of a POST only while `gate` is open."""

    def __init__(self, on_bytes: Callable[[int, int], None] = lambda _received, _size: None) -> None:
        self.gate, self.uploading, self.done = threading.Event(), threading.Event(), threading.Event()
        self.received = self.size = 0
        self._on_bytes = on_bytes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._open: socket.socket | None = None

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.gate.set()
        for connection in filter(None, (self._listener, self._open)):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open = connection
            with connection, connection.makefile("rb") as file:
                while (line := file.readline()).strip():
                    self._answer(line, file, connection)

    def _answer(self, line, file, connection) -> None:
        headers = {}
        while header := file.readline().strip():
            name, _, value = header.decode().partition(":")
            headers[name.lower()] = value.strip()
        size = int(headers.get("content-length", 0))
        answer = {"data": [], "has_more": False}
        if b"/count_tokens " in line:
            file.read(size)
            answer = {"input_tokens": 1}
        elif line.startswith(b"POST"):
            self._read_body(size, file)
            answer = BATCH
        body = json.dumps(answer).encode()
        head = f"HTTP/1.1 200 OK\r\nanthropic-workspace-id: sandbox\r\ncontent-length: {len(body)}\r\n\r\n"
        try:
            connection.sendall(head.encode() + body)
        except OSError:
            return

    def _read_body(self, size, file) -> None:
        self.size = size
        self.uploading.set()
        self.gate.wait()
        try:
            while self.received < size and (some := file.read1(CHUNK_BYTES)):
                self.received += len(some)
                self._on_bytes(self.received, size)
        except ConnectionError:
            return
        finally:
            self.done.set()
