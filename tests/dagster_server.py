"""A real `dagster dev` on this repository's code location, with a home and a store of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import psutil

ROOT = Path(__file__).parent.parent
LOCATION = "claude_pipeline"
QUIET = "telemetry:\n  enabled: false\nnux:\n  enabled: false\n"
PATIENCE_SECONDS = 420  # of a machine that others use as well

_LAUNCH = """mutation($job: String!, $location: String!) {
  launchRun(executionParams: {selector: {
    repositoryLocationName: $location, repositoryName: "__repository__", jobName: $job
  }}) { __typename ... on PythonError { message } }
}"""
_READY = """{ workspaceOrError { ... on Workspace { locationEntries { loadStatus } } }
  instance { daemonHealth { allDaemonStatuses { required healthy } } } }"""
_MATERIALIZATIONS = """query($key: [String!]!) { assetOrError(assetKey: {path: $key}) { ... on Asset {
  assetMaterializations { runId metadataEntries { label
    ... on IntMetadataEntry { intValue } ... on MarkdownMetadataEntry { mdStr } } } } } }"""
_CHECKS = """query($key: [String!]!) { assetNodeOrError(assetKey: {path: $key}) { ... on AssetNode {
  assetChecksOrError { ... on AssetChecks { checks { name executionForLatestMaterialization { status } } } } } } }"""
_RUNS = "{ runsOrError { ... on Runs { results { jobName status } } } }"


@dataclass(frozen=True, slots=True)
class DagsterServer:
    """A running `dagster dev`."""

    url: str
    store: Path
    process: subprocess.Popen

    def ask(self, query, **variables):
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urlopen(request, timeout=60) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def launch(self, job):
        assert self.ask(_LAUNCH, job=job, location=LOCATION)["launchRun"]["__typename"] == "LaunchRunSuccess"

    def materializations(self, key):
        """Return the metadata of an asset's materializations, the newest first."""
        found = self.ask(_MATERIALIZATIONS, key=[key])["assetOrError"].get("assetMaterializations", [])
        return [{entry["label"]: entry for entry in event["metadataEntries"]} for event in found]

    def checks(self, key):
        """Return how the checks of an asset's last materialization came out."""
        checks = self.ask(_CHECKS, key=[key])["assetNodeOrError"]["assetChecksOrError"]["checks"]
        return {check["name"]: (check["executionForLatestMaterialization"] or {}).get("status") for check in checks}

    def kill(self):
        """Let web server, daemon and code server die at once, as with their machine; the sandbox is another's."""
        alive = psutil.Process(self.process.pid).children(recursive=True)
        for process in [p for p in alive if "claude_pipeline.sandbox" not in p.cmdline()]:
            process.kill()
        self.process.kill()
        self.process.wait(60)

    def runs(self):
        """Return the runs' statuses by job."""
        return [(run["jobName"], run["status"]) for run in self.ask(_RUNS)["runsOrError"]["results"]]

    def is_ready(self):
        try:
            answer = self.ask(_READY)
        except (URLError, ConnectionError, TimeoutError):
            return False
        loaded = [entry["loadStatus"] for entry in answer["workspaceOrError"]["locationEntries"]]
        daemons = answer["instance"]["daemonHealth"]["allDaemonStatuses"]
        return loaded == ["LOADED"] and all(daemon["healthy"] for daemon in daemons if daemon["required"])


def until(what, *, seconds=PATIENCE_SECONDS):
    """Wait until something is there, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, f"{what} is not there after {seconds} s"
        time.sleep(0.5)
    return found


@contextmanager
def dagster_dev(folder, *, batch_seconds):
    """Run `dagster dev` until the body is done; its sandbox's batches take `batch_seconds`.

    A second one in the same folder goes on where the first one was.
    """
    home, store = folder / "home", folder / "store"
    home.mkdir(exist_ok=True)
    (home / "dagster.yaml").write_text(QUIET)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ANTHROPIC_", "COV_"))}
    environment |= {
        "DAGSTER_HOME": str(home),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "CLAUDE_PIPELINE_STORE": str(store),
        "CLAUDE_PIPELINE_SANDBOX_SECONDS": str(batch_seconds),
    }
    command = [sys.executable, "-m", "dagster", "dev", "-h", "127.0.0.1", "-p", str(port)]
    with (folder / "dagster.log").open("a") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
    server = DagsterServer(f"http://127.0.0.1:{port}", store, process)
    try:
        until(lambda: process.poll() is not None or server.is_ready())
        assert process.poll() is None, (folder / "dagster.log").read_text()
        yield server
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def stop_sandbox(folder):
    """Stop the sandbox that the code location started."""
    data = folder / "store" / "sandbox"
    for process in psutil.process_iter(["cwd", "cmdline"]):
        if process.info["cwd"] == str(data) and "claude_pipeline.sandbox" in (process.info["cmdline"] or ()):
            process.kill()
            psutil.wait_procs([process])
