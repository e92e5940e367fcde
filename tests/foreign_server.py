"""A server of the batch endpoints that shares no code with the sandbox: the standard library, and answers by hand."""

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Blocks = list[dict[str, Any]]
BATCHES = "/v1/messages/batches"
USAGE = {"input_tokens": 20, "output_tokens": 10}


class ForeignServer:
    """Answers each request as `answer` says of its params; a batch has ended as soon as it is there."""

    def __init__(self, answer: Callable[[dict[str, Any]], Blocks]) -> None:
        self.received: list[dict[str, Any]] = []
        self._answer = answer
        self._batches: list[dict[str, Any]] = []
        self._results: dict[str, bytes] = {}
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._send(server.look(self.path.partition("?")[0]))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                self._send(server.take(self.path.partition("?")[0], body))

            def _send(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("anthropic-organization-id", "somebody-else")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_words: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def look(self, path: str) -> bytes:
        if path.endswith("/results"):
            return self._results[path.split("/")[-2]]
        found = [batch for batch in self._batches if path.endswith(batch["id"])]
        return json.dumps(found[0] if found else self._listed()).encode()

    def _listed(self) -> dict[str, Any]:
        ids = {"first_id": None, "last_id": None}
        return {"data": self._batches[::-1], "has_more": False, **ids}

    def take(self, path: str, body: dict[str, Any]) -> bytes:
        if path != BATCHES:
            return json.dumps({"input_tokens": USAGE["input_tokens"]}).encode()
        self.received += body["requests"]
        number = f"msgbatch_{len(self._batches):04}"
        self._results[number] = b"".join(map(self._line, body["requests"]))
        self._batches.append(self._batch(number, len(body["requests"])))
        return json.dumps(self._batches[-1]).encode()

    def _batch(self, number: str, requests: int) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat()
        counts = {"processing": 0, "succeeded": requests, "errored": 0, "canceled": 0, "expired": 0}
        times = {"created_at": now, "ended_at": now, "expires_at": now, "archived_at": None}
        state = {"processing_status": "ended", "request_counts": counts, "cancel_initiated_at": None}
        results = {"results_url": f"{self.url}{BATCHES}/{number}/results"}
        return {"id": number, "type": "message_batch", **times, **state, **results}

    def _line(self, request: dict[str, Any]) -> bytes:
        content = self._answer(request["params"])
        stop = {"stop_reason": "tool_use" if content[0]["type"] == "tool_use" else "end_turn", "stop_sequence": None}
        said = {"id": "msg_1", "type": "message", "role": "assistant", "content": content, "usage": USAGE}
        message = said | stop | {"model": request["params"]["model"]}
        result = {"type": "succeeded", "message": message}
        return json.dumps({"custom_id": request["custom_id"], "result": result}).encode() + b"\n"
