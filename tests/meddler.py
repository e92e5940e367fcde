"""A server between a client and the sandbox that passes everything on, unless a test meddles with it."""

import http.client
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import urlsplit


@dataclass(slots=True)
class Answer:
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Seen:
    method: str
    path: str
    headers: dict[str, str]
    at: float = field(default_factory=time.monotonic)


Meddle = Callable[[Seen, Answer], Answer | None]


class Meddler:
    """Use it with `with`; `meddle(seen, answer)` returns another answer, or None to pass the true one on."""

    def __init__(self, target: str = "", meddle: Meddle = lambda _seen, _answer: None) -> None:
        self.meddle = meddle
        self.seen: list[Seen] = []
        self._target = urlsplit(target).netloc
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def count(self, method: str, ending: str) -> int:
        return sum(seen.method == method and seen.path.partition("?")[0].endswith(ending) for seen in self.seen)

    def answer(self, seen: Seen, body: bytes) -> Answer:
        self.seen.append(seen)
        true = self._pass_on(seen, body) if self._target else Answer(404, b"{}")
        return self.meddle(seen, true) or true

    def _pass_on(self, seen: Seen, body: bytes) -> Answer:
        connection = http.client.HTTPConnection(self._target)
        try:
            connection.request(seen.method, seen.path, body, seen.headers)
            response = connection.getresponse()
            kept = ("content-type", "retry-after", "request-id", "anthropic-workspace-id", "date")
            headers = {name: value for name, value in response.getheaders() if name.lower() in kept}
            return Answer(response.status, response.read(), headers)
        finally:
            connection.close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        meddler = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                answer = meddler.answer(Seen(self.command, self.path, headers), body)
                self.send_response_only(answer.status)  # with the API's date and no other
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            do_POST = do_GET  # noqa: N815  the name that http.server looks for

            def log_message(self, *_words: object) -> None:
                """Say nothing."""

        return Handler
