"""Object stores on this machine: moto for S3 and an emulator for GCS, behind a door that a test may close.

What is slow to import is imported by the fixtures: every test loads this file.
"""
# ruff: noqa: PLC0415

import logging
import socket
import threading
from collections.abc import Callable
from contextlib import closing, contextmanager
from xml.sax.saxutils import escape

import pytest

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "s3cr3t-of-the-test"}


class S3Server:
    """moto, which asks `refuse` about each request first, and tells `after` of each one that it has answered.

    Attributes:
        refuse: Given the method, the path and the query, returns None or the status and code to answer with.
        after: Given the same.
        requests: What was asked, in order.
    """

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app

        self._moto = DomainDispatcherApplication(create_backend_app)
        self.open_door()

    def open_door(self):
        self.refuse: Callable[[str, str, str], tuple[int, str] | None] = lambda *_: None
        self.after: Callable[[str, str, str], None] = lambda *_: None
        self.requests: list[tuple[str, str, str]] = []

    def __call__(self, environ, start_response):
        request = environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("QUERY_STRING", "")
        self.requests.append(request)
        if refusal := self.refuse(*request):
            status, code = refusal
            body = f"<Error><Code>{escape(code)}</Code><Message>No.</Message></Error>".encode()
            start_response(f"{status} No", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            return [b"" if request[0] == "HEAD" else body]
        answer = [b"".join(self._moto(environ, start_response))]
        self.after(*request)
        return answer


@contextmanager
def serving(app):
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="session")
def s3_server():
    app = S3Server()
    with serving(app) as url:
        app.url = url
        yield app


class Bucket:
    """A bucket, seen through another client than ours."""

    def __init__(self, client, name):
        self.client, self.name = client, name

    def url(self, key=""):
        return f"s3://{self.name}/{key}"

    def put(self, key, data):
        self.client.put_object(Bucket=self.name, Key=key, Body=data)
        return self.url(key)

    def get(self, key):
        return self.client.get_object(Bucket=self.name, Key=key)["Body"].read()

    def names(self):
        return [found["Key"] for found in self.client.list_objects_v2(Bucket=self.name).get("Contents", [])]

    def uploads(self):
        return self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", [])


@pytest.fixture
def bucket(s3_server, monkeypatch):
    import boto3
    import fsspec
    from botocore.config import Config

    for name, value in {**CREDENTIALS, "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": s3_server.url}.items():
        monkeypatch.setenv(name, value)
    s3_server.open_door()
    client = boto3.client("s3", config=Config(retries={"max_attempts": 0}))
    client.create_bucket(Bucket="reviews")
    try:
        yield Bucket(client, "reviews")
    finally:
        s3_server.open_door()
        for key in Bucket(client, "reviews").names():
            client.delete_object(Bucket="reviews", Key=key)
        client.delete_bucket(Bucket="reviews")
        client.close()
        fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture
def gcs_bucket(monkeypatch):
    """Name a bucket of an emulator of GCS, which knows no credentials."""
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks more than the emulator knows
    import fsspec
    from gcp_storage_emulator.server import create_server

    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket="reviews")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    server.start()
    try:
        yield "gs://reviews"
    finally:
        fsspec.get_filesystem_class("gs").clear_instance_cache()
        server.stop()
