"""What is slow to import is imported by those who need it alone."""

import json
import subprocess
import sys

import pytest

import claude_pipeline as cp

SLOW = ("anthropic", "pandas", "dagster", "pyarrow", "starlette", "uvicorn", "rich", "genai_prices", "numpy", "fsspec")

LIFE = """
import sys
import claude_pipeline as cp

folder, base_url = sys.argv[1:]
job = cp.submit(f"{folder}/prompts.csv", template="{id}: {text}", model="claude-haiku-4-5", max_tokens=9,
                id_column="id", store=f"{folder}/store", base_url=base_url, max_batch_requests=2)
job.wait(poll_interval=0)
print(cp.costs(by="model", store=f"{folder}/store"))
print(job.write(f"{folder}/answers.csv"), job.write(f"{folder}/answers.parquet"), job)
"""


def modules_after(code, *words):
    """Run code in a process of its own; return the top-level modules it loaded."""
    ending = "\nimport json, sys\nprint(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    words = [sys.executable, "-W", "error", "-c", code + ending, *map(str, words)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_library_loads_nothing_that_is_slow():
    assert not modules_after("import claude_pipeline").intersection(SLOW)


def test_the_whole_life_of_a_job_from_a_file_loads_no_pandas(sandbox, tmp_path):
    (tmp_path / "prompts.csv").write_text("id,text\n1,a\n2,b\n3,\n1,a\n4,c\n")
    assert not modules_after(LIFE, tmp_path, sandbox.url).intersection(("pandas", "fsspec"))


@pytest.mark.parametrize("before", ["", "gc.freeze()", "gc.disable()"])
def test_the_sdk_is_imported_without_the_garbage_collector_which_is_then_as_it_was(before):
    state = "gc.isenabled(), gc.get_freeze_count() > 0, gc.get_threshold()"
    code = f"""
import gc
from claude_pipeline.transport import make_client
whole = []
gc.callbacks.append(lambda phase, info: whole.append(phase) if info["generation"] == 2 else None)
{before}
as_it_was = {state}
make_client("http://127.0.0.1:1", api_key="none")
assert as_it_was == ({state}), ({state})
assert whole == [] or gc.get_freeze_count()
"""
    assert "anthropic" in modules_after(code)


@pytest.mark.parametrize("module", ["claude_pipeline.sandbox", "claude_pipeline.sandbox.server"])
def test_the_sandbox_loads_neither_the_core_nor_the_sdk(module):
    loaded = modules_after(f"import {module}, sys\nassert 'claude_pipeline.jobs' not in sys.modules")
    assert not loaded & {"anthropic", "pyarrow", "pandas", "dagster"}


def test_every_public_name_is_there():
    code = "import claude_pipeline as cp\nfor name in cp.__all__:\n    assert getattr(cp, name).__doc__, name"
    assert "pyarrow" in modules_after(code)


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'claude_pipeline' has no attribute 'sumbit'"):
        _ = cp.sumbit
