"""A ledger on a server: lost connections, wrong servers, other stores, clocks, threads, forks, and passwords."""

import os
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import dagster as dg
import pyarrow as pa
import pytest
from click.testing import CliRunner
from conftest import submit_to
from hypothesis import given
from hypothesis import strategies as st
from postgres_server import PASSWORD, PostgresServer

import claude_pipeline as cp
from claude_pipeline.cli import main
from claude_pipeline.dagster import ClaudeResource, build_batch_defs
from claude_pipeline.leases import new_owner
from claude_pipeline.postgres import check_url, place_of, without_password
from claude_pipeline.settings import Limits
from claude_pipeline.store import Store

ASKED = {"prompt_column": "text", "model": "claude-haiku-4-5", "max_tokens": 16}


@pytest.fixture
def url(postgres):
    return postgres.empty_database()


def database_of(url):
    return url.rpartition("/")[2]


def prompts(count):
    return pa.table({"text": [f"Prompt {row}" for row in range(count)]})


def refusal(store, ledger):
    with pytest.raises(cp.StoreError) as refused:
        Store(store, ledger)
    assert PASSWORD not in str(refused.value)
    return str(refused.value)


# Whose ledger it is


def test_a_store_whose_ledger_is_on_a_server_says_where_instead_of_beginning_a_new_one(sandbox, store, url):
    job = submit_to(sandbox, ["a"], store=store, ledger=url)
    for ledger in (None, "sqlite"):
        with pytest.raises(cp.StoreError, match=rf"{re.escape(place_of(url))}.*--ledger.*CLAUDE_PIPELINE_LEDGER"):
            cp.open_job(job.job_id, store=store, ledger=ledger)
    assert not (store / "ledger.sqlite").exists()
    assert PASSWORD not in (store / "store.json").read_text()
    assert cp.list_jobs(store=store, ledger=url)[0].job_id == job.job_id


def test_a_store_with_a_ledger_of_its_own_takes_no_other(ask, store, url, postgres):
    ask(["a"])
    assert "ledger.sqlite" in refusal(store, url)
    assert postgres.execute(database_of(url), "SELECT to_regnamespace('claude_pipeline')") == [(None,)]


def test_two_stores_on_one_ledger_are_refused_by_name(tmp_path, url):
    Store(tmp_path / "one", url)
    said = refusal(tmp_path / "two", url)
    assert str(tmp_path / "one") in said
    assert str(tmp_path / "two") in said
    assert not (tmp_path / "two" / "store.json").exists()


def test_the_ledger_of_another_store_or_an_empty_database_is_not_taken_for_its_own(tmp_path, url, postgres):
    ours, theirs, empty = url, postgres.new_database(), postgres.new_database()
    Store(tmp_path / "ours", ours)
    Store(tmp_path / "theirs", theirs)
    assert str(tmp_path / "theirs") in refusal(tmp_path / "ours", theirs)
    assert f"it was at {place_of(ours)}" in refusal(tmp_path / "ours", empty)
    assert postgres.execute(database_of(empty), "SELECT to_regnamespace('claude_pipeline')") == [(None,)]
    Store(tmp_path / "ours", ours)


def test_a_ledger_whose_store_is_not_there_is_not_taken_for_an_empty_one(sandbox, tmp_path, url):
    store = tmp_path / "store"
    submit_to(sandbox, ["a"], store=store, ledger=url)
    shutil.move(store, tmp_path / "moved")
    for look in (cp.list_jobs, cp.doctor, cp.advance, cp.costs):
        with pytest.raises(cp.StoreError, match=r"is that of the store .*backup, or let `claude-pipeline recover`"):
            look(store=store, ledger=url)
    assert not store.exists()
    assert len(cp.list_jobs(store=tmp_path / "moved", ledger=url)) == 1


def test_a_store_that_was_moved_keeps_its_ledger(sandbox, tmp_path, url):
    old, new = tmp_path / "old", tmp_path / "new"
    job = submit_to(sandbox, ["a", "b"], store=old, ledger=url)
    old.rename(new)
    with cp.make_client(sandbox.url, api_key="sandbox") as client:
        moved = cp.open_job(job.job_id, store=new, ledger=url, client=client).wait(poll_interval=0)
    assert moved.to_arrow()["response"].null_count == 0
    assert str(new) in refusal(old, url)


def test_who_died_before_the_store_kept_the_id_of_its_ledger_goes_on_there_alone(sandbox, tmp_path, url):
    Store(tmp_path / "one", url)
    (tmp_path / "one" / "store.json").unlink()
    assert str(tmp_path / "one") in refusal(tmp_path / "two", url)
    submit_to(sandbox, ["a"], store=tmp_path / "one", ledger=url)
    (tmp_path / "one" / "store.json").unlink()
    assert "no store.json" in refusal(tmp_path / "one", url)


def test_results_that_are_missing_are_an_error_and_nothing_is_paid_twice(sandbox, store, url):
    job = submit_to(sandbox, ["a", "b"], store=store, ledger=url).wait(poll_interval=0)
    shutil.rmtree(store / "results")
    again = submit_to(sandbox, ["b", "c"], store=store, ledger=url).wait(poll_interval=0)
    for wanted in (job, again):
        with pytest.raises(cp.StoreError, match=r"missing from the store\. Bring it back"):
            wanted.to_arrow()
    assert sandbox.usage()["answers_billed_twice"] == 0


# Wrong servers


@pytest.mark.parametrize(
    ("ledger", "says"),
    [
        ("postgresql://ada:{p}@127.0.0.1:1/db", "Cannot reach the ledger postgresql://127.0.0.1:1/db: .*refused"),
        (
            "postgresql://ada:{p}@no-such-host.invalid/db",
            "Cannot reach the ledger postgresql://no-such-host.invalid/db",
        ),
        ("postgresql://ada:wrong-{p}@127.0.0.1:{port}/postgres", 'password authentication failed for user "ada"'),
        ("postgresql://ada:{p}@127.0.0.1:{port}/nothing", 'database "nothing" does not exist'),
        ("postgresql://ada:{p}@127.0.0.1:{port}/postgres?{p}=1", "Cannot reach the ledger .*[*][*][*]|parameter"),
        ("postgresql://ada:{p}/x@127.0.0.1:{port}/postgres", "write @ : / "),
        ("postgresql://ada:x@{p}@127.0.0.1:{port}/postgres", "write @ : / "),
        ("postgresql://ada:{p}@127.0.0.1:{port}", "is not postgresql://user@host/database"),
        ("mysql://ada:{p}@127.0.0.1/db", "begins with mysql://.* Give postgresql://user@host/database"),
        ("host=127.0.0.1 dbname=postgres password={p}", "is no URL"),
    ],
)
def test_a_wrong_url_is_one_sentence_with_the_way_out_and_without_the_password(store, postgres, ledger, says):
    said = refusal(store, ledger.format(p=PASSWORD, port=postgres.port))
    assert re.search(says, said)
    assert "\n" not in said


TEXTS = st.text(st.sampled_from("a@:/?#%[] =&'\\"), max_size=8)


def shown(url):
    """Return all that is ever said of a URL."""
    with suppress(cp.StoreError):
        check_url(url)
        return place_of(url) + without_password(url)
    with pytest.raises(cp.StoreError) as refused:
        check_url(url)
    return str(refused.value)


@given(TEXTS, TEXTS, TEXTS)
def test_no_url_shows_its_password(before, after, query):
    secret = "Zq7-secret"
    url = f"postgresql://ada:{before}{secret}{after}@host/db?x={query}&password={secret}"
    assert secret not in shown(url)
    assert "host" in shown(f"postgresql://ada:{secret}@host/db")


def test_a_url_may_be_shown_without_its_password():
    url = "postgresql://ada:x@one:5,two/db?target_session_attrs=read-write&password=x&sslpassword=x"
    assert without_password(url) == "postgresql://ada@one:5,two/db?target_session_attrs=read-write"
    assert place_of(url) == "postgresql://one:5,two/db"


def test_a_password_may_stand_in_the_query_or_the_environment(tmp_path, postgres, monkeypatch):
    url = postgres.new_database()
    bare = without_password(url)
    Store(tmp_path, f"{bare}?password={PASSWORD}")
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert Store(tmp_path, bare).ledger.jobs() == []


def test_the_first_host_that_takes_writes_is_used(tmp_path, postgres):
    url = postgres.new_database().replace("@127.0.0.1", "@127.0.0.1:1,127.0.0.1")
    assert Store(tmp_path, f"{url}?target_session_attrs=read-write").ledger.jobs() == []


def test_without_psycopg_the_extra_is_named(store):
    words = f"""
import sys
sys.modules["psycopg"] = None
import claude_pipeline as cp
try:
    cp.set_budget(1, store={str(store)!r}, ledger="postgresql://host/db")
except cp.StoreError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert "pip install 'claude-pipeline[postgres]'" in ran.stdout


def test_a_server_that_may_only_be_read_says_so_and_serves_again_when_it_may_be_written(tmp_path, url, postgres):
    ledger = Store(tmp_path, url).ledger
    name = database_of(url)
    ledger.account("before")
    postgres.execute("postgres", f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    postgres.cut(url)
    try:
        with pytest.raises(cp.StoreError, match=r"read-only, as a replica is.*target_session_attrs=read-write"):
            ledger.account("during")
        assert Store(tmp_path, url).ledger.jobs() == []
    finally:
        postgres.execute("postgres", f"ALTER DATABASE {name} RESET default_transaction_read_only")
    assert ledger.account("during") != ledger.account("before")


# Connections that are lost


def test_a_connection_that_is_lost_between_transactions_is_opened_again(tmp_path, url, postgres):
    ledger = Store(tmp_path, url).ledger
    number = ledger.account("sandbox")
    for read in (lambda: ledger.account("sandbox"), ledger.jobs, lambda: ledger.forget_poll(number)):
        postgres.cut(url)
        read()
    assert ledger.account("sandbox") == number


def test_a_connection_that_is_lost_in_a_transaction_undoes_it_and_the_next_one_is_whole(tmp_path, url, postgres):
    ledger = Store(tmp_path, url).ledger

    def write_and_be_cut():
        with ledger.transaction():
            ledger.account("first")
            postgres.cut(url)
            ledger.account("second")

    with pytest.raises(cp.StoreError, match=r"was lost: .*What was recorded is safe; run the same command again"):
        write_and_be_cut()
    assert postgres.execute(database_of(url), "SELECT count(*) FROM claude_pipeline.accounts") == [(0,)]
    assert ledger.account("second")


def test_a_server_that_starts_again_is_waited_for(tmp_path):
    with PostgresServer() as server:
        ledger = Store(tmp_path, server.new_database()).ledger
        number = ledger.account("sandbox")
        server.stop()
        starting = threading.Timer(0.3, server.start)
        starting.start()
        assert ledger.account("sandbox") == number
        starting.join()


def test_a_server_that_has_the_ledger_of_another_store_by_now_is_not_written(tmp_path, url, postgres):
    ledger = Store(tmp_path / "one", url).ledger
    postgres.cut(url)
    postgres.execute(database_of(url), "UPDATE claude_pipeline.meta SET value = 'x' WHERE key = 'store_id'")
    with pytest.raises(cp.StoreError, match="another one by now"):
        ledger.account("sandbox")


def test_a_run_whose_connections_are_cut_again_and_again_is_finished_and_paid_once(store, url, postgres):
    over = threading.Event()

    def cut():
        while not over.wait(0.1):
            postgres.cut(url)

    cutting = threading.Thread(target=cut, daemon=True)
    cutting.start()
    lost, job = [], None
    with cp.Sandbox(answer=lambda params: params["messages"][-1]["content"], batch_seconds=0.1) as server:
        for _ in range(200):
            try:
                options = {"store": store, "ledger": url, "base_url": server.url, "max_batch_requests": 5}
                job = cp.submit(prompts(40), **ASKED, **options).wait(poll_interval=0.05)
            except cp.StoreError as error:
                lost.append(str(error))
            else:
                break
            if len(lost) > 3:  # enough of it: a slow machine must come to an end
                over.set()
        over.set()
        cutting.join()
        usage = server.usage()
    table = job.to_arrow()
    assert table["response"].to_pylist() == table["text"].to_pylist()
    assert usage["answers_billed_twice"] == 0
    assert usage["requests_accepted"] == usage["distinct_requests"] == 40


# Turns, clocks, threads and forks


def test_who_reads_and_then_writes_loses_no_update_however_many_do(tmp_path, url, postgres):
    postgres.execute(
        "postgres", f"ALTER DATABASE {database_of(url)} SET default_transaction_isolation = 'serializable'"
    )
    try:
        stores = [Store(tmp_path, url) for _ in range(8)]
    finally:
        postgres.execute("postgres", f"ALTER DATABASE {database_of(url)} RESET default_transaction_isolation")
    stores[0].ledger.limit_cost(1.0, until=0.0)

    def raise_it(store):
        for _ in range(10):
            with store.ledger.transaction():
                store.ledger.limit_cost(store.ledger.max_cost_usd() + 1, until=0.0)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(raise_it, stores))
    assert stores[0].ledger.max_cost_usd() == 81.0


def test_readers_wait_for_no_writer(tmp_path, url, postgres):
    ledger = Store(tmp_path, url).ledger
    with postgres.held(url):
        assert ledger.jobs() == []


def test_a_turn_that_never_comes_is_an_error_that_says_so(tmp_path, url, postgres):
    ledger = Store(tmp_path, url).ledger
    ledger._database._connection.execute("SET lock_timeout TO '50ms'")
    with postgres.held(url), pytest.raises(cp.StoreError, match="Another process has held the ledger"):
        ledger.account("sandbox")
    assert ledger.account("sandbox")


LEASE = """
import sys, time
real = time.time
time.time = lambda: real() + float(sys.argv[3])
from pathlib import Path
from claude_pipeline.store import Store
from claude_pipeline.leases import new_owner

ledger = Store(Path(sys.argv[1]), sys.argv[2]).ledger
print(ledger.lease_job("job_a", owner=new_owner()), abs(ledger.now() - real()) < 600)
"""


@pytest.mark.parametrize("seconds", [3600, -3600])
def test_a_host_whose_clock_is_an_hour_off_neither_takes_nor_loses_a_lease(tmp_path, url, seconds):
    ledger = Store(tmp_path, url).ledger
    ledger.add_job("job_a", account=ledger.account("sandbox"), name=None, settings=Limits(1, 1, 1, 1), rows=1)
    owner = new_owner()
    assert ledger.lease_job("job_a", owner=owner)
    command = [sys.executable, "-c", LEASE, str(tmp_path), url, str(seconds)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["False", "True"]
    ledger.move_job("job_a", ("planning",), lease_until=ledger.now() - 1)
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["True", "True"]
    assert not ledger.renew_job("job_a", owner=owner)


def test_a_fork_has_a_connection_of_its_own(tmp_path, url):
    ledger = Store(tmp_path, url).ledger
    number = ledger.account("sandbox")
    child = os.fork()
    if not child:
        numbers = {ledger.account("sandbox") for _ in range(20)}
        os._exit(0 if numbers == {number} else 1)
    assert {ledger.account("sandbox") for _ in range(20)} == {number}
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert ledger.account("sandbox") == number


def test_what_text_on_a_server_cannot_hold_is_shown_as_such(tmp_path, url):
    ledger = Store(tmp_path, url).ledger
    account = ledger.account("a\0b")
    assert ledger.account_name(account) == "a\N{REPLACEMENT CHARACTER}b"


# Passwords, doors


def test_no_file_and_no_word_of_a_run_has_the_password(sandbox, tmp_path, url):
    table = tmp_path / "in.csv"
    table.write_text("text\none\ntwo\n")
    environment = {"ANTHROPIC_API_KEY": "sandbox"}
    asked = ["--prompt-column", "text", "--model", "claude-haiku-4-5", "--max-tokens", "9", "--base-url", sandbox.url]
    place = ["--store", str(tmp_path / "store"), "--ledger", url]
    said = []
    for words in (
        ["submit", str(table), *asked],
        ["status"],
        ["list", "--json"],
        ["advance", "--base-url", sandbox.url],
        ["budget", "5"],
        ["estimate", str(table), *asked],
        ["run", str(table), *asked, "--out", str(tmp_path / "out.csv")],
    ):
        ran = CliRunner().invoke(main, [*words, *place], env=environment, catch_exceptions=False)
        assert ran.exit_code == 0, ran.output
        said.append(ran.output)
    assert f"--ledger {without_password(url)}" in said[0]
    assert PASSWORD not in "".join(said)
    store = Store(tmp_path / "store", url)
    assert PASSWORD not in repr(store) + repr(store.ledger) + repr(vars(store))
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]


def test_assets_keep_their_ledger_on_a_server_and_show_no_password(tmp_path, url, monkeypatch):
    monkeypatch.setenv("LEDGER", url)
    table = tmp_path / "in.csv"
    table.write_text("text\none\ntwo\n")
    with cp.Sandbox() as server, dg.DagsterInstance.ephemeral() as instance:
        claude = ClaudeResource(
            api_key="sandbox", base_url=server.url, store=str(tmp_path / "store"), ledger_url=dg.EnvVar("LEDGER")
        )
        defs = dg.Definitions.merge(
            build_batch_defs(key="labels", source=str(table), **ASKED), dg.Definitions(resources={"claude": claude})
        )
        for job in ("labels_submit_job", "labels_collect_job"):
            run = defs.resolve_job_def(job).execute_in_process(instance=instance)
            assert run.success
        (status,) = cp.list_jobs(store=tmp_path / "store", ledger=url)
        assert (status.state, status.unanswered) == ("ended", 0)
        told = "".join(entry.to_json() for entry in instance.all_logs(run.run_id))
    assert PASSWORD not in told
    assert PASSWORD not in ClaudeResource(ledger_url=url).resume_command("job_a")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
