"""The fixture that ships with the package, in a test suite of its own."""

import subprocess
import sys

import pytest

SUITE = """
import os
import anthropic
import pandas as pd
import pytest
import claude_pipeline as cp

FRAME = pd.DataFrame({"text": ["First. Second.", "Third."]})

def test_my_pipeline(claude_sandbox):
    job = cp.submit(FRAME, template="{text}", model="claude-haiku-4-5", max_tokens=16)
    assert job.wait(poll_interval=0.01).to_pandas()["response"].tolist() == ["First.", "Third."]
    assert claude_sandbox.usage()["answers_billed"] == 2

def test_the_next_one_starts_afresh(claude_sandbox):
    job = cp.submit(FRAME, template="{text}", model="claude-haiku-4-5", max_tokens=16)
    job.wait(poll_interval=0.01)
    assert claude_sandbox.usage()["answers_billed"] == 2

@pytest.mark.claude_sandbox(answer=lambda params: "yes", workspace="mine")
class TestOptions:
    @pytest.mark.claude_sandbox(workspace="ours")
    def test_the_nearest_marker_decides(self, claude_sandbox):
        turn = {"role": "user", "content": "Hi."}
        with anthropic.Anthropic() as client:
            raw = client.messages.with_raw_response.create(model="claude-haiku-4-5", max_tokens=9, messages=[turn])
        assert raw.parse().content[0].text == "yes"
        assert raw.headers["anthropic-workspace-id"] == "ours"

def test_outside_of_it_nothing_is_set():
    assert "CLAUDE_PIPELINE_STORE" not in os.environ
"""

LIGHT = """
import sys
import claude_pipeline.sandbox.pytest_plugin
heavy = {"anthropic", "msgspec", "pandas", "pyarrow", "starlette", "uvicorn", "dagster"} & set(sys.modules)
print(sorted(heavy))
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "test_mine.py").write_text(SUITE)
    (tmp_path / "pytest.toml").write_text("[pytest]\nstrict = true\nfilterwarnings = ['error']\n")
    return tmp_path


def test_a_pipeline_is_tested_in_two_lines(project):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert "4 passed" in done.stdout, done.stdout + done.stderr
    assert not (project / ".claude_pipeline").exists()


def test_a_marker_without_a_keyword_fails_the_test_and_says_how_it_goes(tmp_path):
    marked = '@pytest.mark.claude_sandbox("nightly.toml")\ndef test_it(claude_sandbox): pass'
    (tmp_path / "test_mine.py").write_text(f"import pytest\n\n{marked}\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "such as faults='nightly.toml'" in done.stdout
    assert "1 error" in done.stdout


def test_the_plugin_loads_nothing_heavy_until_its_fixture_is_used():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
