"""The notebooks as their readers run them, and what is committed of them.

`uv run python tests/test_notebook.py` runs them and writes their outputs anew.
"""

import os
import re
from pathlib import Path

import IPython
import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOK = FOLDER / "quickstart.ipynb"
OTHERS = ["explore", "extraction", "dagster"]
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
LISTENING = """
heard = []
job.wait(on_status=heard.append)
print([status.state for status in heard])
"""


def run(notebook, folder):
    """Run every cell in this Python, in a folder; outputs become what a reader sees in the end."""
    # Without folders of kernels there is one only: ipykernel's own, which is this interpreter.
    kernels = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    where = {"metadata": {"path": str(folder)}}
    options = {"timeout": 60, "record_timing": False, "coalesce_streams": True}
    client = NotebookClient(notebook, km=kernels, resources=where, **options)
    places = {"TMPDIR": str(folder), "IPYTHONDIR": str(folder / ".ipython")}
    client.execute(env={**os.environ, **places}, cleanup_kc=True)
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


def outputs(cell):
    """Return a cell's outputs as text, apart from times and from ids, which follow the table's types in Arrow."""
    texts = [output.get("text") or output["data"]["text/plain"] for output in cell.outputs]
    return [re.sub(r"\d\d:\d\d|job_\w+|\d+ s$", "…", text).rstrip() for text in texts]


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def committed():
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("notebook")


@pytest.fixture(scope="module")
def ran(folder):
    """Run the notebook and one cell more, for the price of one kernel."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(LISTENING))
    return run(notebook, folder)


@pytest.fixture
def executed(ran):
    return nbformat.from_dict({**ran, "cells": ran.cells[:-1]})


@pytest.fixture
def heard(ran):
    return ran.cells[-1]


def test_every_cell_runs_without_an_error_or_a_warning(executed):
    kinds = [(output.output_type, output.get("name")) for cell in code_cells(executed) for output in cell.outputs]
    assert set(kinds) == {("execute_result", None), ("display_data", None)}


def test_the_way_from_a_frame_to_its_answers_is_six_cells(executed):
    assert [cell.execution_count for cell in code_cells(executed)] == [1, 2, 3, 4, 5, 6]


def test_the_answers_stand_beside_their_rows(executed):
    (frame,) = code_cells(executed)[4].outputs
    assert "<td>Boils in two minutes.</td>" in frame.data["text/html"]
    assert frame.data["text/html"].count("<td>succeeded</td>") == 13


def test_a_job_shows_itself_as_a_card_and_in_one_line(executed):
    (shown,) = code_cells(executed)[2].outputs
    assert shown.data["text/html"].startswith("<div style=")
    assert shown.data["text/plain"].startswith("<Job job_")


def test_waiting_keeps_one_card_up_to_date_and_does_not_show_it_twice(executed):
    live, shown = code_cells(executed)[3].outputs
    assert "100% of 11 requests" in live.data["text/html"]
    assert "13 answered" in live.data["text/html"]
    assert set(shown.data) == {"text/plain"}


def test_asking_again_pays_for_the_new_row_alone(executed):
    live, _ = code_cells(executed)[5].outputs
    assert "100% of 1 request" in live.data["text/html"]
    assert "13 reused rows" in live.data["text/html"]


def test_nothing_is_left_behind(executed, folder):
    assert executed.cells
    assert {path.name for path in folder.iterdir()} == {".ipython"}


def assert_same_outputs(committed, executed):
    for cell, again in zip(code_cells(committed), code_cells(executed), strict=True):
        assert outputs(cell) == outputs(again)


def test_what_is_committed_is_what_a_run_gives(executed, committed):
    assert_same_outputs(committed, executed)


@pytest.mark.parametrize("name", OTHERS)
def test_the_other_notebooks_run_without_a_warning_and_give_what_is_committed(name, tmp_path):
    committed = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    executed = run(nbformat.from_dict(committed), tmp_path)
    shown = [output for cell in code_cells(executed) for output in cell.outputs]
    assert not [output.text for output in shown if output.get("name") == "stderr"]
    assert_same_outputs(nbformat.read(FOLDER / f"{name}.ipynb", as_version=4), executed)
    assert [cell.execution_count for cell in code_cells(executed)] == [*range(1, 1 + len(code_cells(executed)))]
    assert not {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_what_is_committed_says_nothing_of_the_machine_that_ran_it(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata == METADATA
    assert not any(cell.metadata for cell in notebook.cells)
    assert not re.search(r"/(home|root|tmp|Users|work)/|127\.0\.0\.1", path.read_text())
    assert path.stat().st_size < 100_000


def test_whoever_listens_in_a_notebook_sees_no_card(heard):
    assert outputs(heard) == ["['ended']"]


def test_outside_of_a_kernel_nothing_is_shown_even_where_ipython_is_loaded(ask, capsys):
    assert IPython.get_ipython() is None
    assert ask(["a"]).wait(poll_interval=0).status().state == "ended"
    assert capsys.readouterr() == ("", "")


if __name__ == "__main__":
    from tempfile import TemporaryDirectory

    for path in sorted(FOLDER.glob("*.ipynb")):
        with TemporaryDirectory() as place:
            nbformat.write(run(nbformat.read(path, as_version=4), Path(place)), path)
