"""`df.claude` of pandas and of Polars."""

import inspect
import subprocess
import sys

import pandas as pd
import polars as pl
import pytest

import claude_pipeline as cp
import claude_pipeline.pandas
import claude_pipeline.polars
from claude_pipeline.errors import MissingColumnError

ASKED = {"prompt_column": "text", "model": "claude-haiku-4-5", "max_tokens": 64}


@pytest.mark.parametrize("frames", [pd, pl])
def test_a_frame_asks_as_the_functions_do(sandbox, store, frames):
    frame = frames.DataFrame({"text": ["One. Two.", "Three. Four."]})
    place = {"base_url": sandbox.url, "store": store}
    assert frame.claude.estimate(**ASKED, **place) == cp.estimate(frame, **ASKED, **place)
    with frame.claude.stream(limit=1, **ASKED, **place) as rows:
        assert [row.response for row in rows] == ["One."]
    job = frame.claude.batch(**ASKED, **place)
    assert job.job_id == cp.submit(frame, **ASKED, **place).job_id
    assert job.wait(poll_interval=0).to_arrow()["response"].to_pylist() == ["One.", "Three."]


def test_its_errors_are_those_of_the_functions(store):
    with pytest.raises(MissingColumnError, match="No column 'txt' in the DataFrame"):
        pd.DataFrame({"text": ["a"]}).claude.estimate(**ASKED | {"prompt_column": "txt"}, store=store)


def test_an_editor_shows_the_arguments_without_the_source():
    shown = inspect.signature(pd.DataFrame({"text": ["a"]}).claude.batch).parameters
    wanted = inspect.signature(cp.submit).parameters
    assert list(shown) == list(wanted)[1:]
    assert pd.DataFrame.claude.batch.__doc__ == cp.submit.__doc__


def test_only_whoever_asks_for_it_has_it():
    said = "import pandas as pd, claude_pipeline as cp; cp.Job; assert not hasattr(pd.DataFrame, 'claude')"
    subprocess.run([sys.executable, "-c", said], check=True)
