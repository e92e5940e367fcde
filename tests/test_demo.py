"""The demo, and the table that it asks about."""

import sys

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from claude_pipeline.cli import main
from claude_pipeline.demo import TEMPLATE, prompts, standard_library
from claude_pipeline.sandbox.answers import facts


@pytest.fixture(scope="module")
def library():
    return standard_library()


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """Run the demo in a folder of its own, without credentials."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)

    def invoke(*words, answer=None):
        return CliRunner().invoke(main, ["demo", *words], input=answer, catch_exceptions=False)

    return invoke


def test_the_standard_library_is_several_thousand_documented_things_with_real_duplicates(library):
    assert library.column_names == ["module", "name", "signature", "docstring"]
    assert library.num_rows > 3_000
    assert all(docstring.strip() for docstring in library["docstring"].to_pylist())
    assert len(set(prompts(library))) < library.num_rows


def test_more_rows_than_there_are_is_all_of_them_the_same_every_time(library):
    assert standard_library(10**9).equals(library)
    assert not any(" at 0x" in signature for signature in library["signature"].to_pylist())


def test_nothing_of_this_machine_is_in_the_table(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "a-key-of-mine")
    text = "".join(prompts(standard_library()))
    assert "a-key-of-mine" not in text
    assert sys.prefix not in text


def test_names_are_qualified_and_signatures_real(library):
    rows = {f"{row['module']}.{row['name']}": row for row in library.to_pylist()}
    assert rows["textwrap.dedent"]["signature"] == "(text)"
    assert rows["json.encoder.JSONEncoder.iterencode"]["signature"].startswith("(self, o")
    assert "xml.etree.ElementTree.dump" in rows


@pytest.mark.parametrize("rows", [1, 50])
def test_fewer_rows_are_spread_over_the_library(rows):
    some = standard_library(rows)
    assert some.num_rows == rows
    assert len(set(some["module"].to_pylist())) > rows // 3


@pytest.mark.parametrize(
    "docstring", ["Return the thing. It may be None.\n\nMore.", "Return the thing.", "Things\n\nOne. Two."]
)
def test_the_sandbox_answers_with_the_docstrings_first_sentence_or_paragraph(docstring):
    prompt = TEMPLATE.format(name="f", signature="(x)", docstring=docstring)
    said = facts({"messages": [{"role": "user", "content": prompt}]})
    assert said == ("Things" if docstring.startswith("Things") else "Return the thing.")


def test_the_demo_leaves_one_file_and_tells_what_happened(demo, tmp_path):
    result = demo("--rows", "50", "--out", "answers")
    assert result.exit_code == 0, result.stderr
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*.*")] == [
        (tmp_path / "answers" / "summaries.parquet").relative_to(tmp_path)
    ]
    table = pq.read_table("answers/summaries.parquet")
    assert table.num_rows == 50
    assert table["result_type"].to_pylist() == ["succeeded"] * 50
    assert len(set(table["batch_id"].to_pylist())) >= 3
    for part in ("50 answered", "Batches:", "Tokens:", "at the real price", "summaries.parquet"):
        assert part in result.stdout
    assert "\x1b" not in result.output
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_without_out_the_demo_says_how_to_keep_the_answers_and_leaves_nothing(demo, tmp_path):
    result = demo("--rows", "4")
    assert result.exit_code == 0, result.stderr
    assert "--out DIR" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_said_before_anything_is_sent(demo, tmp_path):
    (tmp_path / "taken").touch()
    assert demo("--rows", "4", "--out", "taken").exit_code == 2
    result = demo("--rows", "4", "--out", "taken/below")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: Cannot make the folder")


def test_live_shows_what_it_may_cost_and_sends_nothing_unless_told_to(demo, tmp_path, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "never sent anywhere")
    result = demo("--rows", "4", "--live", answer="n\n")
    assert result.exit_code == 1
    assert "4 requests to claude-haiku-4-5 through the real API, for at most about $0.00" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_live_needs_credentials(demo):
    result = demo("--rows", "4", "--live")
    assert result.exit_code == 1
    assert "Error: No credentials for the Anthropic API." in result.stderr
