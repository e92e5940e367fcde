"""Budgets hold: what could cost too much is refused, waits for what is in flight, or blocks its job in words."""

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from click.testing import CliRunner

import claude_pipeline as cp
from claude_pipeline.cli import main
from claude_pipeline.leases import new_owner
from claude_pipeline.records import PLANNED
from claude_pipeline.sending import send

TABLE = pd.DataFrame({"text": [f"Say {number}." for number in range(40)]})
LONG = {"prompt_column": "text", "model": "claude-haiku-4-5", "max_tokens": 1000}
WORST_USD = 0.0026  # of one such row at half price: a thousand tokens out at $5 a million, and a few in


@pytest.fixture
def ask(sandbox, tmp_path):
    def ask(source=TABLE, **options):
        return cp.submit(source, store=tmp_path / "store", base_url=sandbox.url, **{**LONG, **options})

    return ask


def run(*words):
    return CliRunner().invoke(main, list(map(str, words)))


def teach(ask):
    """Let the store know how short the answers are."""
    ask(pd.DataFrame({"text": ["Say something."]})).wait(poll_interval=0)


def test_what_is_expected_to_cost_more_is_refused_before_anything_is_sent(ask, sandbox, tmp_path):
    with pytest.raises(cp.InputError, match=r"expected to cost \$0\.05.*more than the \$0\.0100 left of max_cost_usd"):
        ask(max_cost_usd=0.01)
    assert sandbox.usage()["requests_accepted"] == 0
    assert cp.list_jobs(store=tmp_path / "store") == []


@pytest.mark.usefixtures("each_ledger")
def test_no_more_is_in_flight_than_the_budget_could_bear(ask, sandbox):
    teach(ask)
    job = ask(max_cost_usd=10.5 * WORST_USD)
    assert sandbox.usage()["requests_accepted"] - 1 == 10
    assert "waits for the budget: of the $0.0273 that the job may cost $0.00 are spent, $0.02" in job.status().reason


@pytest.mark.usefixtures("each_ledger")
def test_a_budget_that_suffices_in_the_end_is_enough(ask, sandbox):
    teach(ask)
    status = ask(max_cost_usd=10.5 * WORST_USD).wait(poll_interval=0).status()
    assert (status.state, status.unanswered) == ("ended", 0)
    assert status.cost_usd < 10.5 * WORST_USD
    assert sandbox.usage()["answers_billed_twice"] == 0


def test_a_job_whose_budget_is_used_up_is_blocked_and_goes_on_with_a_larger_one(ask, sandbox):
    teach(ask)
    with pytest.raises(cp.JobBlockedError, match=r"larger max_cost_usd=.*`resume`"):
        ask(max_cost_usd=WORST_USD / 2).wait(poll_interval=0)
    assert sandbox.usage()["requests_accepted"] == 1
    job = ask(max_cost_usd=1)
    job.resume()
    assert job.wait(poll_interval=0).status().unanswered == 0


@pytest.mark.usefixtures("each_ledger")
def test_a_budget_of_the_store_holds_for_all_its_jobs(ask, sandbox, tmp_path):
    teach(ask)
    cp.set_budget(10.5 * WORST_USD, store=tmp_path / "store")
    job = ask()
    assert sandbox.usage()["requests_accepted"] - 1 <= 10
    assert "that the store may cost" in job.status().reason
    other = ask(pd.DataFrame({"text": ["Something else"]}))
    assert other.wait(poll_interval=0).status().unanswered == 0
    assert job.wait(poll_interval=0).status().unanswered == 0


def test_what_the_store_has_spent_counts(ask, tmp_path):
    teach(ask)
    spent = cp.list_jobs(store=tmp_path / "store")[0].cost_usd
    cp.set_budget(spent, store=tmp_path / "store")
    with pytest.raises(cp.InputError, match=r"left of the budget of the store"):
        ask()
    cp.set_budget(None, store=tmp_path / "store")
    assert ask().wait(poll_interval=0).status().unanswered == 0


def change(store, sql):
    with closing(sqlite3.connect(store / "ledger.sqlite")) as ledger, ledger:
        ledger.execute(sql)


def months_later(store):
    """Let all that was collected, and what waits, be of the month before."""
    for moment in ("collected_at", "not_before"):
        change(store, f"UPDATE shards SET {moment} = {moment} - 32 * 86400")


def spend(ask, store):
    """Leave of the budget for the month a little less than the next request may cost."""
    teach(ask)
    change(store, "UPDATE shards SET cost_usd = 1")
    cp.set_budget(1 + WORST_USD * 0.9, per="month", store=store)
    return ask(pd.DataFrame({"text": ["Say one.", "Say two."]}))


def test_a_job_that_this_month_has_no_room_for_waits_for_the_next_and_goes_on_by_itself(ask, sandbox, tmp_path):
    job = spend(ask, tmp_path / "store")
    status = job.advance()
    now = datetime.now(UTC)
    following = (now.replace(day=1) + timedelta(days=31)).strftime("%Y-%m")
    assert status.state == "in_progress"
    assert f"that the store in {now:%Y-%m} may cost" in status.reason
    assert f"It waits for {following} (UTC). Give the store a larger budget for the month" in status.reason
    assert not status.is_due
    assert sandbox.usage()["requests_accepted"] == 1
    months_later(tmp_path / "store")
    assert job.wait(poll_interval=0).status().unanswered == 0


def test_a_larger_budget_for_the_month_lets_a_waiting_job_go_on_at_once(ask, tmp_path):
    job = spend(ask, tmp_path / "store")
    cp.set_budget(2, per="month", store=tmp_path / "store")
    assert job.wait(poll_interval=0, timeout=60).status().unanswered == 0


def test_what_a_whole_month_has_no_room_for_blocks_its_job(ask, tmp_path):
    teach(ask)
    cp.set_budget(WORST_USD / 2, per="month", store=tmp_path / "store")
    with pytest.raises(cp.JobBlockedError, match=r"that the store in \d{4}-\d\d may cost.*a larger budget, then"):
        ask(pd.DataFrame({"text": ["Say one."]})).wait(poll_interval=0)


def test_a_submit_that_is_more_than_this_month_has_left_is_refused(ask, tmp_path):
    spend(ask, tmp_path / "store").cancel()
    with pytest.raises(cp.InputError, match=r"left of the budget of the store in \d{4}-\d\d\. Nothing was sent"):
        ask(pd.DataFrame({"text": [f"Tell me {number}." for number in range(2000)]}))


def test_both_budgets_hold_at_once_and_the_shell_shows_what_is_left_of_each(ask, tmp_path):
    store = tmp_path / "store"
    teach(ask)
    (spent,) = (status.cost_usd for status in cp.list_jobs(store=store))
    for words in (["2"], ["1.5", "--per", "month"]):
        assert run("budget", *words, "--store", store).exit_code == 0
    months_later(store)
    ever, month = cp.list_budgets(store=store)
    assert (ever.limit_usd, ever.spent_usd, ever.left_usd) == (2, spent, 2 - spent)
    assert (month.limit_usd, month.spent_usd, month.left_usd) == (1.5, 0, 1.5)
    shown = [line.split() for line in run("budget", "--store", store).stdout.splitlines()]
    assert shown[0] == ["ACCOUNT", "PER", "LIMIT", "SPENT", "RESERVED", "LEFT"]
    assert [line[:3] for line in shown[1:]] == [["sandbox", "ever", "$2.00"], ["sandbox", "month", "$1.50"]]
    told = json.loads(run("budget", "none", "--store", store, "--json").stdout)
    assert [one["limit_usd"] for one in told] == [None, 1.5]
    assert run("budget", "--per", "month", "--store", store).exit_code == 2


def test_the_same_submit_is_the_same_job_though_its_bad_rows_would_be_refused(ask):
    table = pd.DataFrame({"text": ["a", "b"], "stop": [None, '"no list"']})
    options = {"params_columns": {"stop_sequences": "stop"}, "max_cost_usd": 1, "preflight": False}
    first = ask(table, **options).wait(poll_interval=0)
    assert first.status().unanswered == 1
    assert ask(table, **options).job_id == first.job_id


def test_a_model_without_a_price_has_no_budget(ask, tmp_path):
    with pytest.raises(
        cp.InputError, match=r"no known price for claude-unheard-of, so max_cost_usd cannot be.*prices\.toml"
    ):
        ask(model="claude-unheard-of", max_cost_usd=1)
    (tmp_path / "store" / "prices.toml").write_text("[claude-unheard-of]\ninput = 1\noutput = 5\n", encoding="utf-8")
    assert ask(model="claude-unheard-of", max_cost_usd=1).wait(poll_interval=0).status().unanswered == 0


@pytest.mark.parametrize("usd", [0, -1, float("nan"), float("inf")])
def test_a_budget_is_an_amount(ask, usd, tmp_path):
    with pytest.raises(cp.InputError, match="max_cost_usd is"):
        ask(max_cost_usd=usd)
    with pytest.raises(cp.InputError, match="The budget is"):
        cp.set_budget(usd, store=tmp_path / "store")
    with pytest.raises(cp.InputError, match="per is 'week'"):
        cp.set_budget(1, per="week", store=tmp_path / "store")


def test_one_request_goes_ahead_to_fill_the_cache(ask, sandbox):
    words = " ".join(f"Rule {number} holds." for number in range(2000))
    job = ask(system=words, cache="1h", prime_cache=True)
    assert sandbox.usage()["requests_accepted"] == 1
    assert job.status().reason == "1 of 2 batches wait for the first one, which fills the cache."
    assert job.wait(poll_interval=0).status().unanswered == 0
    assert job.status().reason is None
    assert sandbox.usage()["batches"] == 2
    assert job.to_pandas().cache_read_input_tokens.gt(0).sum() == len(TABLE) - 1


@pytest.mark.usefixtures("each_ledger")
def test_a_batch_that_another_process_sent_during_the_reckoning_is_not_sent_again(ask, sandbox):
    teach(ask)
    sandbox.fail_next("create", 429)
    job = ask(max_cost_usd=1)
    store, session = job._store, job._start_session()
    (shard,) = store.ledger.own_shards(job.job_id)
    store.ledger.move(shard.shard, PLANNED, reserved_usd=None, not_before=0.0, refusals=0)
    seen = store.ledger.shard(shard.shard)
    job.resume()
    accepted = sandbox.usage()["requests_accepted"]
    send(store, session.api, seen, owner=new_owner())
    assert sandbox.usage()["requests_accepted"] == accepted
    assert job.wait(poll_interval=0).status().unanswered == 0
    assert sandbox.usage()["answers_billed_twice"] == 0
