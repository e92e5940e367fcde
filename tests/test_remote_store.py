"""A store on S3: what a local one does, and no more lost."""

import pyarrow as pa
import pytest

from claude_pipeline.places import is_url
from claude_pipeline.store import Store


@pytest.fixture
def there(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "ledger.sqlite"
    path.touch()
    opened = Store._open_ledger
    monkeypatch.setattr(Store, "_open_ledger", lambda self, at: opened(self, path.parent if is_url(at) else at))
    monkeypatch.setattr("claude_pipeline.jobs.existing_store", Store)
    return bucket.url("store")


def end(job):
    return job.wait(poll_interval=0)


ROWS = pa.table({"id": [1, 2, 3, 4, 5], "text": ["a", None, "b", "a", "c"]})


def test_the_same_rows_have_the_same_answers_as_in_a_local_store(ask, there, bucket, tmp_path):
    here = end(ask(ROWS, max_batch_requests=2))
    far = end(ask(ROWS, max_batch_requests=2, store=there))
    assert far.job_id == here.job_id
    ours = ["batch_id", "request_id"]
    assert far.to_arrow().drop_columns(ours).equals(here.to_arrow().drop_columns(ours))
    names = [name.partition("/")[2] for name in bucket.names()]
    assert [name.partition("/")[0] for name in names] == ["jobs", "jobs", "results", "results"]
    assert not [*(tmp_path / "cache").rglob("spool/*")]
