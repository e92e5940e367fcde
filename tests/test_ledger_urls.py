import pytest

import claude_pipeline as cp


@pytest.mark.parametrize("ledger", ["mysql://ada:hunter2@host/db", "host=h password=hunter2"])
def test_a_ledger_that_is_none_is_refused_before_anything_is_made_and_no_password_is_shown(store, ledger):
    with pytest.raises(cp.StoreError) as caught:
        cp.set_budget(5, store=store, ledger=ledger)
    assert "hunter2" not in str(caught.value)
    assert not store.exists()


def test_the_environment_names_a_ledger_unless_the_caller_does(ask, store, monkeypatch):
    job = ask(["a"])
    monkeypatch.setenv("CLAUDE_PIPELINE_LEDGER", "mysql://host/db")
    with pytest.raises(cp.StoreError, match="mysql://"):
        cp.list_jobs(store=store)
    assert [one.job_id for one in cp.list_jobs(store=store, ledger="sqlite")] == [job.job_id]
