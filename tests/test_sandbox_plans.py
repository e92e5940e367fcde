"""A plan of faults: how it is read, what is wrong with it, and which operations and rows it meets."""

import json
from collections.abc import Iterator

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import fields

from claude_pipeline.sandbox import Sandbox
from claude_pipeline.sandbox.faults import NAMES, Fault, FaultsError
from claude_pipeline.sandbox.faults.plans import parse_plan, read_plan

HEADERS = {"authorization": "Bearer any", "anthropic-version": "2026-10-21"}
BATCHES = "/v1/messages/batches"
FAULTS = "/_sandbox/faults"
PARAMS = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi."}]}
TOML = """
seed = 7
[[create]]
fault = "drop_after"
rate = 0.02
[[poll]]
fault = 503
times = 3
[[rows]]
fault = "credit_too_low"
from = 500
"""
CONTENT = {
    "seed": 7,
    "create": [{"fault": "drop_after", "rate": 0.02}],
    "poll": [{"fault": 503, "times": 3}],
    "rows": [{"fault": "credit_too_low", "from": 500}],
}


def connect(sandbox):
    return httpx2.Client(base_url=sandbox.url, headers=HEADERS)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(seed=3) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def client(sandbox) -> Iterator[httpx2.Client]:
    with connect(sandbox) as client:
        yield client


@pytest.fixture
def plan(client):
    """Let the sandbox follow a plan for one test."""
    yield lambda **sections: client.post(FAULTS, json=sections).raise_for_status()
    client.delete(FAULTS).raise_for_status()


def statuses(client, times, path="/v1/models"):
    return [client.get(path).status_code for _ in range(times)]


def outcomes(client, *ids):
    requests = [{"custom_id": custom_id, "params": PARAMS} for custom_id in ids]
    batch = client.post(BATCHES, json={"requests": requests}).raise_for_status().json()
    lines = [json.loads(line) for line in client.get(f"{BATCHES}/{batch['id']}/results").text.splitlines()]
    results = {line["custom_id"]: line["result"] for line in lines}
    return [results[custom_id]["type"] for custom_id in ids]


def test_a_file_in_toml_one_in_json_and_a_mapping_mean_the_same(tmp_path):
    (tmp_path / "faults.toml").write_text(TOML)
    (tmp_path / "faults.json").write_text(json.dumps(CONTENT))
    plan = read_plan(CONTENT)
    assert read_plan(tmp_path / "faults.toml") == read_plan(str(tmp_path / "faults.json")) == plan
    assert (plan.seed, [*plan.faults]) == (7, ["create", "poll", "rows"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("faults.yaml", "create: []"),
        ("faults.toml", "[[create"),
        ("faults.json", "{"),
        ("faults.json", "[" * 99_999),
        ("faults.toml", "seed = " + "9" * 5_000),
        ("faults.toml", None),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, text):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(FaultsError, match=rf"{tmp_path}/{name} cannot be read: "):
        Sandbox(faults=tmp_path / name)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"creates": []}, ["'creates'", "Did you mean 'create'?", "There is: seed, create, "]),
        ({1: []}, ["no key '1'"]),
        ({"create": [{"fault": "drop_afer"}]}, ["create, fault 1", "'drop_afer'", "Did you mean 'drop_after'?"]),
        ({"create": [{"fault": "cut"}]}, ["no fault of create 'cut'", "There is: drop_before, "]),
        ({"create": [{"fault": 200}]}, ["no status '200'", "There is: 400 to 599."]),
        ({"create": [{"fault": True}]}, ["no status 'True'"]),
        ({"create": [{"fault": ["drop_after"]}]}, ["no fault of create 'list'"]),
        ({"rows": [{"fault": 500}]}, ["no fault of rows '500'"]),
        ({"rows": [{"fault": "api_eror"}]}, ["Did you mean 'api_error'?"]),
        ({"poll": [{"fault": 503}, {"fault": 503, "tims": 3}]}, ["poll, fault 2", "'tims'", "Did you mean 'times'?"]),
        ({"create": [{"fault": "drop_after", "seconds": 1}]}, ["no key of drop_after 'seconds'", "There is: rate, "]),
        ({"rows": [{"fault": "expired", "times": 3}]}, ["no key of expired 'times'", "rate, positions, from."]),
        (
            {"create": [{"rate": 1}]},
            ["create, fault 1: the key fault is missing. It is one of: drop_before, ", "a status from 400"],
        ),
        ({"create": {"fault": 503}}, ["create: ", "[[create]]"]),
        ({"create": ["drop_after"]}, ["create, fault 1: 'drop_after' does not fit."]),
        (
            {"create": [{"fault": 503, "rate": 1.5}]},
            ["create, fault 1, rate: 1.5 does not fit. It is a share, a number from 0 to 1."],
        ),
        ({"create": [{"fault": 503, "rate": -1}]}, ["rate: -1 does not fit."]),
        ({"create": [{"fault": 503, "rate": float("nan")}]}, ["rate: nan does not fit."]),
        ({"create": [{"fault": 503, "rate": "often"}]}, ["rate: 'often' does not fit."]),
        (
            {"create": [{"fault": 503, "positions": [1, 0]}]},
            ["positions: [1, 0] does not fit. It is a list of whole numbers from 1 up."],
        ),
        ({"create": [{"fault": 503, "positions": 1}]}, ["positions: 1 does not fit."]),
        ({"create": [{"fault": 503, "times": 0}]}, ["times: 0 does not fit. It is a whole number from 1 up."]),
        ({"create": [{"fault": 503, "times": True}]}, ["times: True does not fit."]),
        ({"create": [{"fault": 503, "message": 1}]}, ["message: 1 does not fit."]),
        ({"create": [{"fault": 503, "message": "\ud800"}]}, ["message: "]),
        ({"create": [{"fault": "late", "seconds": float("inf")}]}, ["seconds: inf does not fit."]),
        ({"create": [{"fault": 503, "rate": 0.5, "positions": [1]}]}, ["rate and positions exclude each other"]),
        ({"rows": [{"fault": "expired", "positions": [1], "from": 1}]}, ["positions and from exclude each other"]),
        ({"rows": [{"fault": name, "rate": 0.6} for name in ("expired", "canceled")]}, ["together at most 1"]),
        ({"seed": "x"}, ["seed: 'x' does not fit."]),
        ({"seed": 2**64}, ["64 bits"]),
        ([], ["faults: [] does not fit."]),
    ],
)
def test_what_is_wrong_with_a_plan_is_named_with_what_there_is(content, words):
    with pytest.raises(FaultsError) as refused:
        parse_plan(content)
    assert [word for word in words if word not in str(refused.value)] == []


def test_a_plan_that_is_wrong_is_refused_over_http_and_the_one_before_stays(client, plan):
    plan(models=[{"fault": 418}])
    response = client.post(FAULTS, json={"modles": []})
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")
    assert "Did you mean 'models'?" in response.json()["error"]["message"]
    assert statuses(client, 1) == [418]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
KEYS = ("rate", "positions", "times", "from", "seconds", "message", "retry_after", "events", "accepted", "fault")
NUMBERS = st.integers() | st.floats() | st.lists(st.integers(), max_size=3) | JSON
FAULT = st.builds(
    lambda name, keys: {"fault": name, **keys},
    st.sampled_from([*NAMES["create"], *NAMES["streams"], *NAMES["rows"]]) | st.integers(390, 610) | JSON,
    st.dictionaries(st.sampled_from(KEYS[:-1]), NUMBERS, max_size=2),
)
PLANS = st.dictionaries(st.sampled_from([*NAMES, "seed", "other"]), st.lists(FAULT, max_size=2) | JSON, max_size=2)
WILDLY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@WILDLY
@given(body=st.binary(max_size=40) | (PLANS | JSON).map(lambda content: json.dumps(content).encode()))
@pytest.mark.usefixtures("plan")
def test_no_plan_makes_the_sandbox_fail_and_what_it_shows_is_a_plan(client, body):
    response = client.post(FAULTS, content=body)
    assert response.status_code in (200, 400)
    shown = client.get(FAULTS).json()
    for section in shown.keys() - {"seed"}:
        for fault in shown[section]:
            assert fault.pop("met") == 0
    assert client.post(FAULTS, json=shown).status_code == 200


def test_a_plan_is_shown_with_how_often_each_fault_was_met_until_it_is_cleared(client, plan):
    plan(seed=7, models=[{"fault": 503, "positions": [3, 1]}, {"fault": 529, "rate": 1}])
    assert statuses(client, 3) == [503, 529, 503]
    assert client.get(FAULTS).json() == {
        "seed": 7,
        "models": [
            {"fault": 503, "positions": [1, 3], "met": 2},
            {"fault": 529, "rate": 1.0, "met": 1},
        ],
    }
    assert client.delete(FAULTS).json() == {"seed": 3}
    assert statuses(client, 1) == [200]


def test_a_fault_that_does_not_say_when_meets_every_operation(client, plan):
    plan(models=[{"fault": 503}])
    assert statuses(client, 4) == [503] * 4


def test_a_fault_with_times_alone_meets_the_first_ones(client, plan):
    plan(models=[{"fault": 503, "times": 2}])
    assert statuses(client, 4) == [503, 503, 200, 200]


def test_positions_begin_storms(client, plan):
    plan(models=[{"fault": 503, "positions": [2, 5], "times": 2}])
    assert statuses(client, 7) == [200, 503, 503, 200, 503, 503, 200]


def test_positions_count_from_the_plan_on(client, plan):
    plan()
    statuses(client, 3)
    plan(models=[{"fault": 503, "positions": [2]}])
    assert statuses(client, 3) == [200, 503, 200]


def test_the_first_fault_in_order_wins_and_the_others_count_on(client, plan):
    plan(models=[{"fault": 500, "positions": [2]}, {"fault": 529, "positions": [2], "times": 2}])
    assert statuses(client, 4) == [200, 500, 529, 200]


def test_a_rate_meets_the_same_operations_for_the_same_seed(client, plan):
    def met(seed):
        plan(seed=seed, models=[{"fault": 503, "rate": 0.3}])
        return statuses(client, 40)

    assert met(1) == met(1) != met(2)
    assert 3 < met(1).count(503) < 25


def test_a_rate_begins_storms(client, plan):
    plan(seed=4, models=[{"fault": 503, "rate": 0.1, "times": 3}])
    text = "".join("x" if status == 503 else "." for status in statuses(client, 60))
    assert "xxx" in text
    assert ".x." not in text
    assert ".xx." not in text


def test_a_poll_is_a_retrieve_or_a_list_and_both_count(client, plan):
    plan(poll=[{"fault": 503, "positions": [2, 3]}], list=[{"fault": 529, "positions": [2]}])
    paths = [f"{BATCHES}/nothing", BATCHES, f"{BATCHES}/nothing", BATCHES]
    assert [client.get(path).status_code for path in paths] == [404, 503, 503, 529]


def test_what_is_ordered_by_itself_comes_before_the_plan_and_outlives_it(sandbox, client, plan):
    plan(models=[{"fault": 503, "times": 2}])
    sandbox.fail_next("models", 418, after=1)
    plan(models=[{"fault": 529, "times": 3}])
    assert statuses(client, 4) == [529, 418, 529, 200]


def test_what_is_ordered_twice_comes_one_after_the_other(sandbox, client):
    sandbox.fail_next("models", 500, times=2, after=1)
    sandbox.fail_next("models", 529, after=1)
    assert statuses(client, 6) == [200, 500, 500, 200, 529, 200]


def test_rates_of_rows_meet_the_same_ids_whatever_the_order(client, plan):
    def met(ids):
        plan(seed=5, rows=[{"fault": "api_error", "rate": 0.3}, {"fault": "expired", "rate": 0.2}])
        return dict(zip(ids, outcomes(client, *ids), strict=True))

    ids = [f"first_{number}" for number in range(100)]
    types = [*met(ids).values()]
    assert 15 < types.count("errored") < 45
    assert 8 < types.count("expired") < 35
    with Sandbox(seed=5, error_rates={"api_error": 0.3}, expire_rate=0.2) as other, connect(other) as fresh:
        assert outcomes(fresh, *reversed(ids)) == types[::-1]
        shown = fresh.get(FAULTS).json()
    assert [fault["met"] for fault in shown["rows"]] == [types.count("errored"), types.count("expired")]


def test_rates_given_as_arguments_join_the_plan():
    faults = {"rows": [{"fault": "canceled", "positions": [2]}]}
    with Sandbox(faults=faults, error_rates={"api_error": 1}) as sandbox, connect(sandbox) as client:
        assert outcomes(client, "a", "b", "c") == ["errored", "canceled", "errored"]
    with pytest.raises(FaultsError, match="together at most 1"):
        Sandbox(faults={"rows": [{"fault": "expired", "rate": 0.5}]}, error_rates={"api_error": 0.6})


def test_a_missing_fault_is_looked_for_among_the_keys_that_are_there():
    with pytest.raises(
        ValueError, match=r"key fault is missing\. Did you mean it by 'falt'\? It is one of: drop_before"
    ):
        Sandbox(faults={"create": [{"falt": "drop_after"}]})


@pytest.mark.parametrize("key", sorted(field.encode_name for field in fields(Fault) if field.name != "name"))
def test_what_fits_a_key_is_said_where_a_value_does_not(key):
    section = "rows" if key == "from" else "streams" if key == "events" else "create"
    fault = {"from": "expired", "events": "error", "seconds": "late", "bytes_per_second": "slow_upload"}.get(key, 503)
    with pytest.raises(FaultsError, match=f"{section}, fault 1, {key}: .* does not fit. It is "):
        parse_plan({section: [{"fault": fault, key: {}}]})
