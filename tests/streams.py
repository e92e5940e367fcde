"""What the tests of streaming share: a table asked of a sandbox, row by row."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import Request, urlopen

import pyarrow as pa

import claude_pipeline as cp

OLD, NEW = "claude-haiku-4-5", "claude-haiku-5-5"


def stream_from(sandbox, source, **options):
    """Stream a table, or a list of prompts, with what most tests do not vary."""
    if isinstance(source, list):
        source = pa.table({"text": pa.array(source, pa.string())})
    if not {"template", "messages_column"} & options.keys():
        options.setdefault("prompt_column", "text")
    return cp.stream(source, **{"model": OLD, "max_tokens": 64, "base_url": sandbox.url, **options})


def echo(params):
    return params["messages"][-1]["content"]


def asked_messages(sandbox):
    """List the requests that the sandbox has had for messages."""
    return [line for line in sandbox.log() if line.path == "/v1/messages"]


def going_on(text):
    """Answer with a text, or with its rest to whoever shows its beginning."""

    def answer(params):
        last = params["messages"][-1]
        if last["role"] == "assistant":
            begun = last["content"]
            assert text.startswith(begun), begun
            return text[len(begun) :]
        if "interrupted and ended with:" in last["content"]:
            begun = last["content"].partition("ended with:\n\n")[2].partition("\n\nContinue from")[0]
            assert text.startswith(begun), begun
            return text[len(begun) :]
        return text

    return answer


def fate(words):
    """Let a prompt choose what it comes to: `words` are the errors that it may name."""
    return lambda _custom_id, params, _attempt: next((word for word in words if word in json.dumps(params)), None)


@contextmanager
def whole_answers(sandbox_url, answers):
    """Serve messages out of `answers`, each in one piece, and everything else out of a sandbox."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            self._answer(None)

        def do_POST(self):
            self._answer(self.rfile.read(int(self.headers["content-length"])))

        def _answer(self, body):
            if self.path == "/v1/messages":
                self._send(next(answers), [("content-type", "text/event-stream")])
                return
            passed = ("content-type", "authorization", "anthropic-version")
            headers = {name: self.headers[name] for name in passed if name in self.headers}
            with urlopen(Request(sandbox_url + self.path, data=body, headers=headers)) as answer:
                self._send(answer.read(), [("content-type", "application/json")])

        def _send(self, body, headers):
            self.send_response(200)
            for name, value in [*headers, ("content-length", str(len(body)))]:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
