"""The code location under a real `dagster dev`: web server, daemon, runs in processes of their own."""

import pytest
from dagster_server import dagster_dev, stop_sandbox, until


@pytest.fixture
def folder(tmp_path):
    """Hold home, store and sandbox of one installation."""
    yield tmp_path
    stop_sandbox(tmp_path)


@pytest.mark.timeout(1200)
def test_a_submission_becomes_answers_although_web_server_daemon_and_code_server_are_killed_midway(folder):
    with dagster_dev(folder, batch_seconds=20) as before:
        before.launch("summaries_submit_job")
        until(lambda: before.materializations("summaries_batch"))
        before.kill()
    with dagster_dev(folder, batch_seconds=20) as dagster:
        (answers,) = until(lambda: dagster.materializations("summaries"))
        until(lambda: dagster.materializations("longest_summaries"))
        landed = until(lambda: ended(status for job, status in dagster.runs() if job == "summaries_collect_job"))
        checks = dagster.checks("summaries")

    assert answers["dagster/row_count"]["intValue"] == 1000
    assert answers["claude/unanswered"]["intValue"] == 0
    assert "sandbox answers" in answers["sandbox"]["mdStr"]
    assert checks == dict.fromkeys(("every_row_once", "succeeded", "truncated", "refused"), "SUCCEEDED")
    assert landed == ["SUCCESS"]


def ended(statuses):
    """Return the statuses when no run is under way; the one that was killed stays as it was, for Dagster."""
    found = [*statuses]
    return found if "STARTED" not in found else []
