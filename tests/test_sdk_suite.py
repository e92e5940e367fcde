"""The SDK's own tests of batches, messages and models, as it ships them, against the sandbox."""

import subprocess
import sys
import tarfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree as ET

import pytest
from anthropic import Anthropic
from isolated import ENVIRONMENT, run_isolated

from claude_pipeline.sandbox import Sandbox

SDK = f"anthropic=={version('anthropic')}"
SUITE = (
    "tests/api_resources/messages/test_batches.py",
    "tests/api_resources/beta/messages/test_batches.py",
    "tests/api_resources/test_messages.py",
    "tests/api_resources/test_models.py",
)


@pytest.fixture(scope="module")
def source(pytestconfig):
    """Unpack the source distribution of the installed SDK, fetched once."""
    unpacked = pytestconfig.cache.mkdir("sdk") / SDK.replace("==", "-")
    if not unpacked.exists():
        with TemporaryDirectory(dir=unpacked.parent) as folder:
            download(Path(folder)).rename(unpacked)
    return unpacked


def download(folder):
    pip = ("python", "-m", "pip", "download", "--no-deps", "--no-binary", "anthropic", "--dest", folder, SDK)
    fetched = run_isolated(*pip, needs=["pip==26.3"])
    assert fetched.returncode == 0, fetched.stdout
    (archive,) = folder.glob("anthropic-*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def pins(source):
    """Name what the suite was developed with, and the SDK itself not as a folder but as it is installed."""
    lines = [
        line.partition("#")[0].strip() for line in source.joinpath("requirements-dev.lock").read_text().split("\n")
    ]
    return [line for line in lines if line and not line.startswith("-e")] + [SDK, "aiohttp==3.14.5"]


def outcomes(report):
    """Count the outcomes of each file of the suite."""
    cases = ET.parse(report).iter("testcase")
    return Counter((file_of(case), case[0].tag if len(case) else "passed") for case in cases)


def file_of(case):
    return next((path for path in SUITE if case.get("classname").startswith(path[:-3].replace("/", "."))), "elsewhere")


@pytest.fixture
def url():
    """Serve in conformance mode from a process of its own."""
    command = [sys.executable, "-m", "claude_pipeline.sandbox", "--conformance"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process.stdout.readline().strip()
        process.terminate()


def test_the_sdks_own_tests_pass_unmodified(source, url, tmp_path):
    report = tmp_path / "report.xml"
    suite = ("python", "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "--junitxml", report, *SUITE)
    ran = run_isolated(
        *suite,
        needs=pins(source),
        cwd=source,
        env={**ENVIRONMENT, "TEST_API_BASE_URL": url, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert ran.returncode == 0, ran.stdout
    counted = outcomes(report)
    assert counted.keys() == {(path, "passed") for path in SUITE}, ran.stdout
    assert min(counted.values()) > 10


@pytest.fixture
def client():
    with (
        Sandbox(conformance=True, batch_seconds=60) as sandbox,
        Anthropic(base_url=sandbox.url, api_key="any") as client,
    ):
        yield client


def test_a_batch_that_nobody_created_can_be_asked_for_in_any_order(client):
    batches = client.messages.batches
    for _ in range(2):
        assert batches.delete("made_up").id == "made_up"
        assert batches.cancel("made_up").processing_status == "ended"
        assert batches.retrieve("made_up").request_counts.succeeded == 1
        assert [line.result.type for line in batches.results("made_up")] == ["succeeded"]


def test_a_page_whose_cursors_nobody_knows_is_the_first(client):
    batches = [client.messages.batches.retrieve(batch_id).id for batch_id in ("first", "second", "third")]
    page = client.messages.batches.list(after_id="made_up", before_id="made_up", limit=2)
    assert [batch.id for batch in page.data] == batches[:0:-1]
    assert client.models.list(after_id="made_up").first_id == client.models.list().first_id


def test_known_cursors_still_turn_the_page(client):
    first, second = client.models.list(limit=2).data
    assert client.models.list(after_id=first.id).first_id == second.id


@pytest.mark.parametrize("model_id", ["model_id", "-", "claude-haiku-4-5"])
def test_every_id_is_a_model(client, model_id):
    assert client.models.retrieve(model_id).id == model_id


def test_a_batch_that_nobody_created_is_remembered_with_the_others(tmp_path):
    for _ in range(2):
        with (
            Sandbox(conformance=True, data=tmp_path) as sandbox,
            Anthropic(base_url=sandbox.url, api_key="any") as client,
        ):
            client.messages.batches.retrieve("made_up")
            assert sandbox.usage()["batches"] == 1
