"""The code location under a real `dagster dev`: web server, daemon, runs in processes of their own."""

import pytest
from dagster_server import dagster_dev, until


@pytest.mark.timeout(600)
def test_a_submission_launched_by_itself_becomes_answers_and_what_is_downstream(tmp_path):
    with dagster_dev(tmp_path, batch_seconds=3) as dagster:
        dagster.launch("summaries_submit_job")
        (answers,) = until(lambda: dagster.materializations("summaries"))
        until(lambda: dagster.materializations("longest_summaries"))
        runs = until(lambda: dagster.runs() if all(status != "STARTED" for _, status in dagster.runs()) else [])
    assert answers["dagster/row_count"]["intValue"] == 1000
    assert answers["claude/unanswered"]["intValue"] == 0
    assert "sandbox answers" in answers["sandbox"]["mdStr"]
    assert {status for _, status in runs} == {"SUCCESS"}
    assert [job for job, _ in runs].count("summaries_collect_job") == 1
