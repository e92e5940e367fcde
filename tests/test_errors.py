"""Every error, as a user meets it: what is wrong with its value, the way out, and the page that lists it."""

import inspect
import re

import pages
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from anthropic import Anthropic
from click.testing import CliRunner
from conftest import submit_to

import claude_pipeline as cp
from claude_pipeline import errors
from claude_pipeline.cli import main

ASK = {"model": "claude-haiku-4-5", "max_tokens": 16}
OPTIONS = ["--model", "claude-haiku-4-5", "--max-tokens", "16", "--out", "labeled.csv"]
KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, cp.PipelineError | cp.PipelineWarning) and kind.__module__ == errors.__name__
]


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch, sandbox):
    """Be where the reader of the page is: reviews, a sandbox, no store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", sandbox.url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sandbox")
    pq.write_table(pa.table({"id": [1, 2], "text": ["It works.", "It broke."]}), "reviews.parquet")


def shell(*words):
    """Run a command that fails, and return the line that it says."""
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    return line.removeprefix("Error: ")


def run(*words):
    return shell("run", "reviews.parquet", *OPTIONS, *words)


def raised(kind, function, *arguments, **options):
    with pytest.raises(kind) as caught:
        function(*arguments, **options)
    assert type(caught.value) is kind
    return str(caught.value)


def input_error(_sandbox):
    asking = {"template": "{text}", "params": {"thinkin": {"type": "adaptive"}}}
    in_shell = run("--template", "{text}", "--param", 'thinkin={"type": "adaptive"}')
    return raised(cp.InputError, cp.submit, "reviews.parquet", **ASK, **asking), in_shell


def missing_column(_sandbox):
    in_shell = run("--prompt-column", "txt")
    return raised(cp.MissingColumnError, cp.submit, "reviews.parquet", prompt_column="txt", **ASK), in_shell


def unknown_field(_sandbox):
    in_shell = run("--template", "Label: {txt}")
    return raised(cp.UnknownFieldError, cp.submit, "reviews.parquet", template="Label: {txt}", **ASK), in_shell


def too_many_rows(_sandbox):
    return (raised(cp.TooManyRowsError, cp.stream, "reviews.parquet", template="{text}", max_rows=1, **ASK),)


def output(_sandbox):
    in_shell = shell("run", "reviews.parquet", "--template", "{text}", *OPTIONS[:-1], "labeled.xlsx")
    job = cp.submit("reviews.parquet", template="{text}", **ASK).wait()
    return raised(cp.OutputError, job.write, "labeled.xlsx"), in_shell


def credentials(_sandbox):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ANTHROPIC_BASE_URL")
        patch.delenv("ANTHROPIC_API_KEY")
        in_shell = run("--template", "{text}")
        return raised(cp.CredentialsError, cp.submit, "reviews.parquet", template="{text}", **ASK), in_shell


def api(sandbox):
    sandbox.fail_next("list", 401, times=2)
    in_shell = run("--template", "{text}")
    return raised(cp.ApiError, cp.submit, "reviews.parquet", template="{text}", **ASK), in_shell


def account(_sandbox):
    job = cp.submit("reviews.parquet", template="{text}", **ASK)
    with cp.Sandbox(workspace="wrkspc_other") as other:
        in_shell = shell("advance", job.job_id, "--base-url", other.url)
        opened = cp.open_job(job.job_id, base_url=other.url)
        return raised(cp.AccountError, opened.advance), in_shell


def store(_sandbox):
    in_shell = run("--template", "{text}", "--store", "reviews.parquet")
    asking = {"template": "{text}", "store": "reviews.parquet", **ASK}
    return raised(cp.StoreError, cp.submit, "reviews.parquet", **asking), in_shell


def place(_sandbox):
    in_shell = run("--template", "{text}", "--store", "ftp://host/store")
    asking = {"template": "{text}", "store": "ftp://host/store", **ASK}
    return raised(cp.PlaceError, cp.submit, "reviews.parquet", **asking), in_shell


def unknown_job(_sandbox):
    job = cp.submit("reviews.parquet", template="{text}", **ASK)
    nearly = job.job_id[:-1]
    return raised(cp.UnknownJobError, cp.open_job, nearly), shell("wait", nearly)


def results(sandbox):
    """Let nobody know the results: the job says so, and looks again."""
    job = cp.submit("reviews.parquet", template="{text}", **ASK)
    sandbox.fail_next("results", "unknown_line", times=9)
    return (job.advance().reason,)


def wait_timeout(_sandbox):
    with cp.Sandbox(batch_seconds=3600) as slow, Anthropic(base_url=slow.url, api_key="sandbox") as client:
        job = submit_to(slow, ["It works."], client=client)
        return (raised(cp.WaitTimeoutError, job.wait, timeout=0),)


def job_blocked(_sandbox):
    with (
        cp.Sandbox(rows=lambda *_: "credit_too_low") as poor,
        Anthropic(base_url=poor.url, api_key="sandbox") as client,
    ):
        job = submit_to(poor, ["It works."], client=client)
        return (raised(cp.JobBlockedError, job.wait, poll_interval=0),)


def warning(_sandbox):
    asking = {"template": "{text}", "system": "Be brief.", "cache": "5m"}
    with pytest.warns(cp.PipelineWarning) as caught:
        cp.submit("reviews.parquet", **ASK, **asking)
    assert caught[0].filename == __file__
    return (str(caught[0].message),)


SCENARIOS = {
    cp.InputError: input_error,
    cp.MissingColumnError: missing_column,
    cp.UnknownFieldError: unknown_field,
    cp.TooManyRowsError: too_many_rows,
    cp.OutputError: output,
    cp.CredentialsError: credentials,
    cp.ApiError: api,
    cp.AccountError: account,
    cp.StoreError: store,
    cp.PlaceError: place,
    cp.UnknownJobError: unknown_job,
    cp.ResultsError: results,
    cp.WaitTimeoutError: wait_timeout,
    cp.JobBlockedError: job_blocked,
    cp.PipelineWarning: warning,
}


def test_every_class_of_errors_is_public_and_has_a_scenario():
    assert {*KINDS} == {cp.PipelineError, *SCENARIOS}
    assert {kind.__name__ for kind in KINDS} <= {*cp.__all__}


@pytest.mark.parametrize("kind", SCENARIOS, ids=lambda kind: kind.__name__)
def test_an_error_says_in_a_few_sentences_what_the_page_says_of_it(kind, sandbox):
    said = {masked(message) for message in SCENARIOS[kind](sandbox)}

    assert len(said) == 1, "The shell says the same as Python."
    (message,) = said
    assert 1 <= len(re.findall(r"[.?:](?: |$)", message)) <= 5
    assert len(message) < 320
    assert message == masked(listed()[kind.__name__])


def listed():
    """Return the message that the page shows for each error."""
    sections = re.split(r"(?m)^## ", pages.read("docs/errors.md"))[1:]
    shown = {section.split("\n")[0]: re.search(r"```text\n(.*?)\n```", section, re.DOTALL) for section in sections}
    return {name: re.sub(r"\s*\n\s*", " ", text[1]) for name, text in shown.items() if text}


def masked(message):
    """Take out what is of this run: folders, ports and ids."""
    message = re.sub(r"(/[\w.-]+)+/(?=[\w.]+)", "/data/", message)
    message = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:8080", message)
    message = re.sub(r"\bjob_[a-z0-9]{15,16}", "job_…", message)
    return re.sub(r"\b(msgbatch|req)_\w+", r"\1_…", message)


# An argument that there is not


@pytest.mark.parametrize(
    ("function", "wrong", "meant"),
    [
        (cp.submit, "templte", "template"),
        (cp.estimate, "exat", "exact"),
        (cp.estimate, "max_token", "max_tokens"),
        (cp.stream, "limt", "limit"),
        (cp.stream, "systm", "system"),
    ],
)
def test_an_argument_that_there_is_not_names_the_nearest(function, wrong, meant):
    refused = rf"{function.__name__}\(\) got an unexpected keyword argument '{wrong}'\. Did you mean '{meant}'\?"
    with pytest.raises(TypeError, match=refused):
        function("reviews.parquet", **{wrong: 1})
    assert meant in inspect.signature(function).parameters or "request" in inspect.signature(function).parameters


def test_an_option_of_the_sandbox_that_there_is_not_names_the_nearest():
    with pytest.raises(TypeError, match=r"'batch_second'\. Did you mean 'batch_seconds'\?"):
        cp.Sandbox(batch_second=1)


@pytest.mark.parametrize(
    ("words", "hint"), [(["run", "x", "--templte", "y"], "--template"), (["stauts"], "Did you mean 'status'?")]
)
def test_an_option_or_a_command_that_there_is_not_names_the_nearest(words, hint):
    result = CliRunner().invoke(main, words)
    assert (result.exit_code, hint in result.stderr) == (2, True)
