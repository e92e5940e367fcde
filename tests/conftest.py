"""What tests stand on: an environment without credentials, a sandbox, and a store of their own."""

import gc
import os
from itertools import islice
from math import ceil
from pathlib import Path

import pyarrow as pa
import pytest
from anthropic import Anthropic
from forking import Workers
from hypothesis import settings
from postgres_server import PostgresServer

import claude_pipeline as cp
from claude_pipeline import answering, batches, inquiring

pytest_plugins = ["buckets"]

AUTHORITY = Path(__file__).with_name("authority.pem")  # signs nothing: nothing here is reached through TLS

settings.register_profile("patient", deadline=None)  # the first example waits for imports
settings.load_profile("patient")

# What takes longest, dealt out to the workers to begin with: nobody has it left at the end, when all others are done.
LONGEST = ["test_fault_points", "test_dagster_live", "test_sdk_suite", "test_concurrency", "test_notebook", "test_docs"]


@pytest.hookimpl(wrapper=True)
def pytest_xdist_auto_num_workers():
    """Have more workers than cores: a third of the time a test waits."""
    return ceil(1.5 * (yield))


@pytest.hookimpl(trylast=True)  # when what is not to run is out
def pytest_collection_modifyitems(items):
    """Begin each worker's share, as xdist makes it, with some of what takes longest."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    by_module = {name: [item for item in items if item.path.stem == name] for name in LONGEST}
    rest = iter([item for item in items if item.path.stem not in by_module])
    dealt = []
    for number in range(workers):
        first = [item for name in LONGEST[number::workers] for item in by_module[name]]
        size = (len(items) - len(dealt)) // (workers - number)
        dealt += [*first, *islice(rest, max(0, size - len(first)))]
    items[:] = [*dealt, *rest]


def pytest_collection_finish():
    """Spare the collector the modules of a hundred files, of which none is garbage."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _clean_environment(tmp_path_factory):
    named = [name for name in os.environ if name.startswith(("ANTHROPIC_", "CLAUDE_PIPELINE_"))]
    with pytest.MonkeyPatch.context() as patch:
        for name in named:
            patch.delenv(name)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # the SDK looks there for a profile
        # Every client reads the certificates of its machine, which takes longer than what most tests ask with it.
        patch.setenv("SSL_CERT_FILE", str(AUTHORITY))
        yield


@pytest.fixture(scope="session", autouse=True)
def _short_pauses():
    """Let a call that failed be made again soon: a sandbox that fails is well again at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answering, "_BACK_OFF_SECONDS", 0.02)
        patch.setattr(batches, "_FIRST_PAUSES", (0.02, 0.04))
        patch.setattr(inquiring, "_PAUSES", (0.02, 0.08, 0.3))
        yield


@pytest.fixture
def sandbox():
    """Run a sandbox whose batches have ended at the first look."""
    with cp.Sandbox() as server:
        yield server


@pytest.fixture
def store(tmp_path):
    """Name a store that does not exist yet."""
    return tmp_path / "store"


@pytest.fixture(scope="session")
def postgres():
    """Run a PostgreSQL server, for tests that ask for one."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def workers():
    """Have processes ready that tests may kill."""
    with Workers() as workers:
        yield workers


@pytest.fixture(params=["sqlite", "postgres"])
def each_ledger(request, monkeypatch):
    """Let the stores of a test have their ledger in a file, or on a server: every store that the test does not tell."""
    url = "sqlite" if request.param == "sqlite" else request.getfixturevalue("postgres").empty_database()
    monkeypatch.setenv("CLAUDE_PIPELINE_LEDGER", url)
    return url


def submit_to(sandbox, source, **options):
    """Submit a table, or a list of prompts, with what most tests do not vary."""
    if isinstance(source, list) and not any(str(path).endswith((".csv", ".parquet")) for path in source):
        source = pa.table({"text": pa.array(source, pa.string())})
    if not {"template", "template_file", "prompt_column"} & options.keys():
        options["prompt_column"] = "text"
    client = options.pop("client", None) or Anthropic(base_url=sandbox.url, api_key="sandbox")
    return cp.submit(source, **{"model": "claude-haiku-4-5", "max_tokens": 64, "client": client, **options})


@pytest.fixture
def ask(sandbox, store):
    """Submit to the sandbox, into the store."""
    with Anthropic(base_url=sandbox.url, api_key="sandbox") as client:
        yield lambda source, **options: submit_to(sandbox, source, **{"store": store, "client": client, **options})
