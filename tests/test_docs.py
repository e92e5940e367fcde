"""README and docs: every block of code does what it says, every link leads somewhere, every table is one."""

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from urllib.parse import unquote

import dagster as dg
import pages
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from dagster.components.testing import create_defs_folder_sandbox
from pyarrow import csv

import claude_pipeline as cp
from claude_pipeline.cli import main

pytestmark = [  # of Dagster's own
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    pytest.mark.filterwarnings("ignore:`parse_obj_as` is deprecated"),
]
RUN = ("python", "console", "toml", "yaml", "json")
OF_A_JOB = ("docs/operations.md", "docs/shell.md")  # whose reader has one
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010804000000b51c0c020000000b4944415478da6364f80f00010501012718e3660000"
    "000049454e44ae426082"
)
NIGHT = """
import claude_pipeline as cp

def run_the_night():
    cp.submit("reviews.parquet", prompt_column="text", model="claude-haiku-4-5", max_tokens=16).wait(poll_interval=0.1)
"""
TURNS = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
LEAKS = [f"Number {row} leaks." for row in range(40)]
TABLES = {
    "goods": {"name": ["Kettle"], "price": [19.5], "shop": ["Lumen"]},
    "photos": {"photo": [PIXEL]},
    "shop": {"name": ["Kettle"], "photo": [PIXEL], "leaflet": [b"# Kettle\n"]},
    "chats": {"chat": [TURNS], "question": ["How are you?"]},
    "cases": {"case": ["A pot is broken."]},
    "tickets": {"subject": ["Lamp", None, *["Kettle"] * 37, None], "body": LEAKS},
    "mixed": {"text": ["Why?"], "model": ["claude-sonnet-5-5"], "limit": [20]},
}


def reviews(rows, *, blank=0, times=1):
    """Make a table of reviews, the first of them blank."""
    texts = [""] * blank + [f"Number {row} works well. I use it daily. " * times for row in range(rows - blank)]
    days = pa.array(["2026-11-01", "2026-11-02"] * (rows // 2)).cast(pa.date32())
    return pa.table({"id": range(rows), "text": texts, "product": ["kettle", "lamp"] * (rows // 2), "created_at": days})


@pytest.fixture(scope="module")
def server():
    """Run the sandbox that the examples ask."""
    with cp.Sandbox() as running:
        yield running


@pytest.fixture
def folder(server, page, tmp_path, monkeypatch):
    """Make the folder that a reader is in: with a key, with the small files that the pages name, without a store."""
    for name, value in {"ANTHROPIC_BASE_URL": server.url, "ANTHROPIC_API_KEY": "sandbox"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    for name, columns in TABLES.items():
        pq.write_table(pa.table(columns), f"{name}.parquet")
    table = reviews(2000, blank=12, times=26) if page == "docs/cost.md" else reviews(30)
    pq.write_table(table, "reviews.parquet")
    csv.write_csv(table, "reviews.csv")
    Path("my_pipeline.py").write_text(NIGHT)
    Path("rules.md").write_text("Be just. " * 2000)
    Path("notify.sh").write_text("#!/bin/sh\ntrue\n")
    Path("notify.sh").chmod(0o700)
    return tmp_path


@pytest.mark.parametrize("page", pages.PAGES)
def test_every_block_of_a_page_runs_in_its_order(page, folder):
    assert folder == Path.cwd()
    namespace = {"__name__": "page", "cp": cp}
    if page in OF_A_JOB:
        namespace["job"] = cp.submit("reviews.parquet", prompt_column="text", model="claude-haiku-4-5", max_tokens=8).wait()
    for block in pages.blocks(page):
        if block.not_run is None and block.language in RUN:
            try:
                globals()[f"run_{block.language}"](block, namespace)
            except BaseException as error:
                error.add_note(f"It stands in {block}.")
                raise


def run_python(block, namespace):
    """Run it, load the definitions it makes, and compare what it prints with what is shown; tests run as such."""
    if "\ndef test_" in block.text:
        Path("test_example.py").write_text(block.text)
        subprocess.run([sys.executable, "-m", "pytest", "-q", "test_example.py"], check=True, capture_output=True)
        return
    code = compile("\n" * (block.line - 1) + of_last_job(block.text), pages.ROOT / block.page, "exec")
    defs, printed = namespace.get("defs"), StringIO()
    with redirect_stdout(printed):
        exec(code, namespace)
    if namespace.get("defs") is not defs:
        dg.Definitions.validate_loadable(namespace["defs"])
    compare(block.output or "", printed.getvalue())


def run_console(block, _namespace):
    """Run its commands, ours in this process, and compare what they print with what is shown."""
    for command in pages.commands(block):
        line = re.sub(r"^pip install [^&]+(&& )?", "", of_last_job(command.line)).removeprefix("uv run ")
        words = pages.Command(line, "").words
        if words and words[0] == "sandbox":
            printed = first_line_of([*words, "--port", "0"])
        elif words:
            result = CliRunner().invoke(main, words, catch_exceptions=False)
            assert result.exit_code == (3 if "unanswered" in command.output else 0), result.output
            printed = result.output
        elif line:
            result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
            assert result.returncode == 0, f"{line}: {result.stdout}{result.stderr}"
            printed = result.stdout
        else:
            continue
        compare(command.output, printed)


def of_last_job(text):
    """Put the job that was submitted last in the place of the one that a page names."""
    last = max(cp.list_jobs(), key=lambda job: job.submitted_at, default=None)
    return re.sub(r"\bjob_[a-z0-9]{16}\b", last.job_id, text) if last else text


def first_line_of(words):
    """Run a server until it has said where it is."""
    command = [Path(sys.executable).parent / "claude-pipeline", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        printed = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, process.stderr.read()
    return printed


def run_toml(block, _namespace):
    """Parse it, and put it where its first line says that it lies."""
    tomllib.loads(block.text)
    if named := re.match(r"# (\S+\.toml)\n", block.text):
        Path(named[1]).write_text(block.text)


def run_json(block, _namespace):
    json.loads(block.text)


def run_yaml(block, _namespace):
    """Parse it; a component is loaded."""
    written = yaml.safe_load(block.text)
    if not str(written.get("type", "")).startswith("claude_pipeline."):
        return
    with create_defs_folder_sandbox() as project:
        folder = project.defs_folder_path / "labels"
        folder.mkdir()
        (folder / "defs.yaml").write_text(block.text)
        with project.load_component_and_build_defs(defs_path=folder) as (_, defs):
            assert defs.assets


MASKS = [
    (r"job_[a-z0-9]{16}", "JOB"),
    (r"msgbatch_\w+", "BATCH"),
    (r"http://127\.0\.0\.1:\d+", "URL"),
    (r"\d[\d,.]*", "N"),
    (r"\b[\w.-]+@[\w.-]+", "WHO"),
    (r" +", " "),
    (r"(?m)(^JOB (planning|in_progress).*\n)+", "JOB in_progress\n"),  # a slow machine says it more often
]


def masked(text):
    for pattern, word in MASKS:
        text = re.sub(pattern, word, text)
    return text.strip()


def compare(shown, printed):
    """A page shows the beginning of what is printed; numbers, ids and ports are those of another run."""
    beginning = masked(shown).splitlines()
    assert masked(printed).splitlines()[: len(beginning)] == beginning


# What is not run


def test_what_is_not_run_has_a_reason_and_is_little():
    left_out = {f"{block}": block.not_run for page in pages.PAGES for block in pages.blocks(page) if block.not_run}
    assert all(left_out.values())
    assert len(left_out) <= 15, left_out


# Links


@pytest.mark.parametrize("page", pages.PAGES)
def test_every_link_within_the_repository_leads_somewhere(page):
    broken = [link for link in pages.links(page) if not leads_somewhere(page, link)]
    assert broken == []


def leads_somewhere(page, link):
    if re.match(r"[a-z]+:", link):
        return link.startswith("https://")
    path, _, anchor = unquote(link).partition("#")
    target = (pages.PAGES[page].parent / path).resolve() if path else pages.PAGES[page]
    named = target.relative_to(pages.ROOT).as_posix()
    return target.exists() and (not anchor or anchor in pages.anchors(named))


def test_every_page_is_reached_from_the_readme():
    seen, ahead = set(), ["README.md"]
    while ahead:
        page = ahead.pop()
        if page in seen or page not in pages.PAGES:
            continue
        seen.add(page)
        for link in pages.links(page):
            path = (pages.PAGES[page].parent / link.partition("#")[0]).resolve()
            if path.is_relative_to(pages.ROOT):
                ahead.append(path.relative_to(pages.ROOT).as_posix())
    assert seen == pages.PAGES.keys()


# Tables


@pytest.mark.parametrize("page", pages.PAGES)
def test_every_table_of_a_page_is_one_to_github_as_well(page):
    kinds = [token.type for token in pages.tokens(page)]
    assert not [token.content for token in pages.tokens(page) if token.type == "text" and token.content[:1] == "|"]
    assert kinds.count("table_open") == len(re.findall(r"(?m)^\|(?:[ :]*-+[ :]*\|)+$", pages.read(page)))
    for rows in re.findall(r"(?m)(?:^\|.*\|\n)+", pages.read(page)):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows.splitlines()}) == 1, rows
