"""Answers that were cut off or do not fit, asked again: at most twice, paid once each, and said what it cost."""

import json
import threading
from collections import Counter
from hashlib import blake2b
from math import ceil

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from anthropic import Anthropic
from click.testing import CliRunner
from conftest import submit_to
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import claude_pipeline as cp
from claude_pipeline.cli import main
from claude_pipeline.forms import build_form

LIMIT = 4
HOUR = 3600
SCHEMA = {"score": int}
TOOL = {
    "name": "rate",
    "input_schema": {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"]},
}
LONG, LONGER, ENDLESS = "long " * 6, "longer " * 9, "endless " * 20  # 8, 16 and 40 tokens


def prompt_of(params):
    return params["messages"][-1]["content"]


class Misfits:
    """Answers that fit once a prompt was asked as often as it says, and that a limit may cut off."""

    def __init__(self) -> None:
        self._asked: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, params):
        prompt = prompt_of(params)
        with self._lock:
            self._asked[prompt] += 1
            asked = self._asked[prompt]
        fits_at, *padding = prompt.split()
        return json.dumps({"score": asked if asked >= int(fits_at) else "high"}) + " " * sum(map(len, padding))


@pytest.fixture
def sandbox():
    with cp.Sandbox(answer=prompt_of) as server:
        yield server


@pytest.fixture
def misfits(store):
    with cp.Sandbox(answer=Misfits()) as server:
        yield server, lambda prompts, **options: end(submit_to(server, prompts, store=store, **options))


def end(job):
    return job.wait(poll_interval=0)


def limits(server):
    """List what each request that came in may answer, by prompt."""
    asked = [json.loads(request.params) for request in server.requests()]
    return sorted((prompt_of(params), params["max_tokens"]) for params in asked)


def said(job, *names):
    return [tuple(row.values()) for row in job.to_arrow().select(list(names)).to_pylist()]


def assert_bill_is_right(job, server):
    """Check that the column, the status and the sandbox agree on what was paid, and that nothing was paid twice."""
    usage, status = server.usage(), job.status()
    assert usage["answers_billed_twice"] == 0
    assert usage["answers_billed"] == status.counts.succeeded + status.again.succeeded
    assert usage["output_tokens"] == status.output_tokens
    cost = sum(cost or 0.0 for cost in job.to_arrow()["cost_usd"].to_pylist())
    assert cost == pytest.approx(status.cost_usd)


# What was cut off


def test_an_answer_that_was_cut_off_is_asked_again_with_twice_the_limit_at_most_twice(ask, sandbox):
    job = end(ask(["short", LONG, LONGER, ENDLESS], max_tokens=LIMIT, on_truncated="retry"))
    assert limits(sandbox) == sorted(
        [("short", 4), (LONG, 4), (LONG, 8), *((prompt, limit) for prompt in (LONGER, ENDLESS) for limit in (4, 8, 16))]
    )
    expected = [("short", "end_turn", 1), (LONG, "end_turn", 2), (LONGER, "end_turn", 3)]
    assert said(job, "response", "stop_reason", "attempts") == [*expected, (ENDLESS[:64], "max_tokens", 3)]
    assert_bill_is_right(job, sandbox)


def test_by_default_it_is_left_as_it_is_counted_and_flagged(ask, sandbox):
    job = end(ask(["short", LONG], max_tokens=LIMIT))
    assert limits(sandbox) == [(LONG, 4), ("short", 4)]
    assert said(job, "stop_reason", "attempts") == [("end_turn", 1), ("max_tokens", 1)]
    status = job.status()
    assert (status.truncated, status.refused, status.paused, status.again.total) == (1, 0, 0, 0)


def test_a_limit_that_a_row_brings_along_is_doubled_and_so_is_the_one_that_stands_in_for_it(ask, sandbox):
    table = pa.table({"text": [LONG, LONGER], "most": [None, 8]})
    job = end(ask(table, max_tokens=5, params_columns={"max_tokens": "most"}, on_truncated="retry"))
    assert limits(sandbox) == [(LONG, 5), (LONG, 10), (LONGER, 8), (LONGER, 16)]
    assert said(job, "response") == [(LONG,), (LONGER,)]


def test_nothing_but_the_limit_of_the_request_is_doubled(ask, sandbox):
    system = 'Say "max_tokens":4, and no more.'
    end(ask([LONG], max_tokens=LIMIT, system=system, params={"metadata": {"user_id": "x"}}, on_truncated="retry"))
    first, second = (json.loads(request.params) for request in sandbox.requests())
    assert second == first | {"max_tokens": 8}


def test_a_duplicate_has_the_same_answer_and_costs_nothing(ask, sandbox):
    job = end(ask([LONG, "short", LONG], max_tokens=LIMIT, on_truncated="retry"))
    table = job.to_arrow()
    assert table["response"].to_pylist() == [LONG, "short", LONG]
    assert table["cost_usd"][2].as_py() == 0
    assert table["attempts"].to_pylist() == [2, 1, 2]
    assert_bill_is_right(job, sandbox)


def test_what_another_job_of_the_store_was_answered_is_not_paid_again(ask, sandbox):
    end(ask([LONG], max_tokens=LIMIT))
    end(ask([LONG, LONGER], max_tokens=8))
    job = end(ask([LONG, LONGER], max_tokens=LIMIT, on_truncated="retry"))
    assert limits(sandbox) == [(LONG, 4), (LONG, 8), (LONGER, 4), (LONGER, 8), (LONGER, 16)]
    assert said(job, "response", "attempts") == [(LONG, 2), (LONGER, 3)]
    assert job.to_arrow()["cost_usd"][0].as_py() == 0
    assert job.status().again.total == 1


def test_two_jobs_that_ask_the_same_again_share_it(store):
    with cp.Sandbox(answer=prompt_of, batch_seconds=1) as sandbox:
        asked = {"store": store, "max_tokens": LIMIT, "on_truncated": "retry"}
        jobs = [submit_to(sandbox, prompts, **asked) for prompts in ([LONG, LONGER], [LONGER, LONG, LONG])]
        for job in reversed(jobs):
            job.wait(poll_interval=0.05)
        assert sandbox.usage()["requests_accepted"] == 5
    assert [said(job, "response") for job in jobs] == [[(LONG,), (LONGER,)], [(LONGER,), (LONG,), (LONG,)]]
    costs = [cost for job in jobs for cost in job.to_arrow()["cost_usd"].to_pylist()]
    assert sum(costs) == pytest.approx(sum(job.status().cost_usd for job in jobs))


def test_an_asking_that_fails_keeps_the_answer_before_it(store):
    def too_much(_custom_id, params, _attempt):
        return "invalid_request_error" if params["max_tokens"] > LIMIT else None

    with cp.Sandbox(answer=prompt_of, rows=too_much) as sandbox:
        job = end(submit_to(sandbox, [LONG], store=store, max_tokens=LIMIT, on_truncated="retry"))
        row = ("succeeded", LONG[:16], "max_tokens", None, 2)
        assert said(job, "result_type", "response", "stop_reason", "error_type", "attempts") == [row]
        assert (job.status().unanswered, job.status().again.errored) == (0, 1)
        assert sandbox.usage()["requests_accepted"] == 2


def test_an_asking_that_may_pass_is_sent_again_as_any_request(store):
    def busy(_custom_id, params, attempt):
        return "overloaded_error" if params["max_tokens"] > LIMIT and attempt == 1 else None

    with cp.Sandbox(answer=prompt_of, rows=busy) as sandbox:
        job = end(submit_to(sandbox, [LONG], store=store, max_tokens=LIMIT, on_truncated="retry"))
        assert said(job, "response", "attempts") == [(LONG, 3)]
        assert_bill_is_right(job, sandbox)


# What does not fit


def test_an_answer_that_does_not_fit_is_asked_again_as_it_was_at_most_twice(misfits):
    server, run = misfits
    job = run(["1", "2", "3", "4"], output_schema=SCHEMA, on_invalid="retry")
    expected = [(1, None, 1), (2, None, 2), (3, None, 3), (None, "invalid_output", 3)]
    assert said(job, "score", "error_type", "attempts") == expected
    assert len({request.params for request in server.requests()}) == 4
    assert job.status().misfits == 0 + 1 + 2 + 3
    assert_bill_is_right(job, server)


def test_a_row_with_a_salt_of_its_own_is_asked_again_too(misfits):
    server, run = misfits
    table = pa.table({"text": ["2", "2"], "sample": ["a", "b"]})
    job = run(table, output_schema=SCHEMA, salt_column="sample", max_batch_requests=1, on_invalid="retry")
    assert job.to_arrow()["score"].null_count == 0
    assert_bill_is_right(job, server)


def test_a_longer_answer_that_does_not_fit_is_asked_afresh_with_the_longer_limit(misfits):
    server, run = misfits
    job = run([f"3 {'.' * 20}"], output_schema=SCHEMA, max_tokens=8, on_invalid="retry", on_truncated="retry")
    assert [limit for _, limit in limits(server)] == [8, 16, 16]
    assert said(job, "score", "stop_reason", "attempts") == [(3, "end_turn", 3)]


def test_a_fresh_answer_that_is_cut_off_is_asked_again_with_twice_the_limit(store):
    answers = iter(['{"score": "high"}', '{"score": 10000000000000000000000000000000}', '{"score": 1}'])
    with cp.Sandbox(answer=lambda _params: next(answers)) as server:
        both = {"on_invalid": "retry", "on_truncated": "retry"}
        job = end(submit_to(server, ["a"], store=store, output_schema=SCHEMA, max_tokens=8, **both))
        assert [limit for _, limit in limits(server)] == [8, 8, 16]
    assert said(job, "score", "stop_reason", "attempts") == [(1, "end_turn", 3)]


def test_the_input_of_a_tool_has_to_fit_as_well(store):
    calls = iter([{"score": "high"}, {"score": 3}])
    block = {"type": "tool_use", "id": "toolu_1", "name": "rate"}
    with cp.Sandbox(answer=lambda _params: [block | {"input": next(calls)}]) as server:
        job = end(submit_to(server, ["a"], store=store, params={"tools": [TOOL]}, on_invalid="retry"))
    assert said(job, "tool_input", "error_type", "attempts") == [({"score": 3}, None, 2)]


# A job goes on


def test_a_job_that_asks_again_is_not_the_one_that_does_not_and_reuses_its_answers(ask, sandbox):
    plain = end(ask([LONG, "short"], max_tokens=LIMIT))
    again = end(ask([LONG, "short"], max_tokens=LIMIT, on_truncated="retry"))
    assert plain.job_id != again.job_id
    assert said(plain, "stop_reason") == [("max_tokens",), ("end_turn",)]
    assert again.status().reused == 2
    assert limits(sandbox) == [(LONG, 4), (LONG, 8), ("short", 4)]


def test_resume_and_the_same_submit_ask_nothing_more(ask, sandbox):
    options = {"max_tokens": LIMIT, "on_truncated": "retry"}
    job = end(ask([LONG, ENDLESS, LONG], **options))
    before, status = job.to_arrow(), job.status()
    job.resume()
    end(job)
    end(ask([LONG, ENDLESS, LONG], **options))
    assert job.to_arrow().equals(before)
    found = job.status()
    assert (found.requests, found.duplicates, found.reused) == (status.requests, status.duplicates, status.reused)
    assert sandbox.usage()["requests_accepted"] == 5


def test_a_row_that_resume_gets_an_answer_for_is_asked_again_if_need_be(store):
    fails = {"now": True}

    def decide(_custom_id, params, _attempt):
        return "invalid_request_error" if fails["now"] and prompt_of(params) == LONGER else None

    with cp.Sandbox(answer=prompt_of, rows=decide) as sandbox:
        job = end(submit_to(sandbox, [LONG, LONGER], store=store, max_tokens=LIMIT, on_truncated="retry"))
        assert job.status().unanswered == 1
        fails["now"] = False
        job.resume()
        end(job)
        assert said(job, "response", "attempts") == [(LONG, 2), (LONGER, 3)]
        assert_bill_is_right(job, sandbox)


def test_a_job_canceled_while_it_asks_again_keeps_its_answers_and_resume_goes_on(store):
    with cp.Sandbox(answer=prompt_of, batch_seconds=HOUR) as sandbox:
        job = submit_to(sandbox, [LONG, "short"], store=store, max_tokens=LIMIT, on_truncated="retry")
        sandbox.advance_clock(HOUR)
        assert job.advance().again.total == 1
        assert job.status().state == "in_progress"
        job.cancel()
        end(job)
        assert (job.status().unanswered, job.status().again.canceled) == (0, 1)
        assert said(job, "response", "stop_reason") == [(LONG[:16], "max_tokens"), ("short", "end_turn")]
        job.resume()
        sandbox.advance_clock(HOUR)
        assert said(end(job), "response", "stop_reason") == [(LONG, "end_turn"), ("short", "end_turn")]
        assert_bill_is_right(job, sandbox)


def test_while_rows_are_asked_again_the_first_answers_are_there(store):
    with cp.Sandbox(answer=prompt_of, batch_seconds=HOUR) as sandbox:
        job = submit_to(sandbox, [LONG, "short"], store=store, max_tokens=LIMIT, on_truncated="retry")
        sandbox.advance_clock(HOUR)
        assert job.advance().again.total == 1
        assert said(job, "response", "attempts") == [(LONG[:16], 1), ("short", 1)]
        status = job.status()
        assert (status.requests, status.counts.succeeded, status.again.processing) == (2, 2, 1)
        assert status.reason == "Asking again, because answers were cut off or do not fit: 1 request."


def test_a_budget_reckons_with_the_larger_limit(tmp_path):
    with cp.Sandbox(answer=lambda _params: "y" * 8_000) as sandbox:
        spent = end(submit_to(sandbox, ["a"], store=tmp_path / "free", max_tokens=1_000)).status().cost_usd
        options = {"store": tmp_path / "limited", "max_tokens": 1_000, "on_truncated": "retry"}
        job = submit_to(sandbox, ["a"], max_cost_usd=2.5 * spent, **options)
        with pytest.raises(cp.JobBlockedError, match=r"The next request may cost .*max_cost_usd"):
            end(job)
        assert said(job, "stop_reason", "attempts") == [("max_tokens", 1)]
        assert submit_to(sandbox, ["a"], max_cost_usd=3.5 * spent, **options).job_id == job.job_id
        job.resume()
        assert said(end(job), "stop_reason", "attempts") == [("end_turn", 2)]


def test_the_shell_asks_again_and_says_so(sandbox, tmp_path, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sandbox")
    source, out = tmp_path / "table.csv", tmp_path / "out.parquet"
    source.write_text(f"text\n{LONG}\nshort\n")
    asked = ["--prompt-column", "text", "--model", "claude-haiku-4-5", "--max-tokens", "4", "--on-truncated", "retry"]
    place = ["--store", str(tmp_path / "store"), "--base-url", sandbox.url, "--poll-interval", "0.1"]
    result = CliRunner().invoke(main, ["run", str(source), "--out", str(out), *asked, *place])
    assert result.exit_code == 0, result.stderr
    said = {label: text.strip() for label, _, text in (line.partition(":") for line in result.stderr.splitlines())}
    assert said["Flagged"] == "1 answer cut off at max_tokens"
    assert said["Asked again"] == "1 request: 1 succeeded"
    assert pq.read_table(out)["attempts"].to_pylist() == [2, 1]


PROMPTS = st.builds(lambda letter, length: letter * length, st.sampled_from("ab"), st.integers(1, 100))


@pytest.fixture(scope="module")
def client():
    with cp.Sandbox(answer=prompt_of) as sandbox, Anthropic(base_url=sandbox.url, api_key="x") as client:
        yield client


def askings(prompt, limit):
    """Count how often a prompt is asked, and with which limit at last."""
    times = next((times for times in range(3) if ceil(len(prompt) / 4) <= limit * 2**times), 2)
    return times + 1, limit * 2**times


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(PROMPTS, st.integers(1, 12)), min_size=1, max_size=12), st.integers(1, 4))
def test_whatever_a_table_holds_each_distinct_request_is_paid_once(tmp_path_factory, client, rows, most):
    table = pa.table({"text": [prompt for prompt, _ in rows], "most": [limit for _, limit in rows]})
    options = {"params_columns": {"max_tokens": "most"}, "on_truncated": "retry", "max_batch_requests": most}
    job = end(submit_to(None, table, client=client, store=tmp_path_factory.mktemp("store"), **options))
    expected = [askings(prompt, limit) for prompt, limit in rows]
    assert said(job, "response", "attempts") == [
        (prompt[: 4 * limit], times) for (prompt, _), (times, limit) in zip(rows, expected, strict=True)
    ]
    distinct = {
        (prompt, limit * 2**time)
        for (prompt, limit), (times, _) in zip(rows, expected, strict=True)
        for time in range(times)
    }
    status = job.status()
    assert status.counts.succeeded + status.again.succeeded == len(distinct)
    assert sum(job.to_arrow()["cost_usd"].to_pylist()) == pytest.approx(status.cost_usd)


# What is asked for


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_invalid": "retry"}, r"on_invalid='retry' has nothing that an answer must fit. Pass output_schema="),
        ({"on_invalid": "retry", "params": {"tools": [TOOL, TOOL | {"name": "other"}]}}, "nothing that an answer must"),
        ({"on_truncated": "again"}, "on_truncated is 'again'. Write on_truncated='retry'"),
        ({"on_invalid": True, "output_schema": SCHEMA}, "on_invalid is True. Write on_invalid='retry'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_sent(ask, sandbox, options, message):
    with pytest.raises(cp.InputError, match=message):
        ask(["a"], **options)
    assert sandbox.usage()["requests_accepted"] == 0


ROW = pa.record_batch({"a": ["Hi"], "most": [3], "salt": ["s"]})
FORMS = [
    {"max_tokens": 9},
    {"max_tokens": 9, "params_columns": {"max_tokens": "most"}},
    {"max_tokens": 9, "salt": "s", "model": 'a "max_tokens":5, model', "params": {"metadata": {"max_tokens": 7}}},
    {"max_tokens": 9, "salt_column": "salt", "params_columns": {"model": "a"}},
]


def form_of(**options):
    return build_form(ROW.schema, source="x", template="{a}", **{"model": "m", **options})


def request_of(form):
    (request,) = form.render(ROW)
    return request


@pytest.mark.parametrize("options", FORMS)
def test_a_request_with_twice_the_limit_is_the_one_that_was_asked_so_at_once(options):
    limit = json.loads(request_of(form_of(**options)).params)["max_tokens"]
    at_once = options | {"max_tokens": 2 * limit, "params_columns": {"model": "a"} if "salt_column" in options else {}}
    assert request_of(form_of(**options).again(doubled=1, afresh=0)) == request_of(form_of(**at_once))


@pytest.mark.parametrize("options", FORMS)
def test_a_request_asked_afresh_is_hashed_with_the_number_of_the_asking_for_ever(options):
    params = request_of(form_of(**options)).params
    header = json.dumps([[], "s" if options.keys() & {"salt", "salt_column"} else None], separators=(",", ":"))
    for afresh in (1, 2):
        again = request_of(form_of(**options).again(doubled=0, afresh=afresh))
        assert again.params == params
        assert again.address == blake2b(f"{header}\n{afresh}\n".encode() + params, digest_size=16).digest()


def test_a_form_that_asks_for_the_first_time_is_written_as_ever():
    """Job ids are made of it."""
    schema = pa.schema({"a": pa.string(), "most": pa.int64()})
    columns = {"max_tokens": "most"}
    form = build_form(schema, source="x", template="{a}", model="m", max_tokens=9, params_columns=columns)
    written = msgspec.json.decode(msgspec.json.encode(form))
    assert written.keys() == {"header", "betas", "salt_column", "parts"}
    assert [part.keys() for part in written["parts"] if isinstance(part, dict)] == [
        {"type", "key", "column", "default"},
        {"type", "template"},
    ]
