"""GCS goes by the same code as S3: what differs is the client beneath, which is tried here."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import claude_pipeline as cp
from claude_pipeline.places import remote_path

TABLE = pa.table({"text": ["a", None, "b", "a"]})


def end(job):
    return job.wait(poll_interval=0)


def read(url):
    return pq.read_table(io.BytesIO(remote_path(url).read_bytes()))


def test_inputs_results_and_answers_lie_on_gcs(ask, gcs_bucket, postgres, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pq.write_table(TABLE, tmp_path / "in.parquet")
    remote_path(f"{gcs_bucket}/in/a.parquet").write_file(tmp_path / "in.parquet")
    store, ledger = f"{gcs_bucket}/store", postgres.empty_database()
    job = end(ask(f"{gcs_bucket}/in/*.parquet", store=store, ledger=ledger, max_batch_requests=1))
    assert job.to_arrow()["result_type"].to_pylist() == ["succeeded", None, "succeeded", "succeeded"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    job.write(f"{gcs_bucket}/out/a.parquet")
    assert read(f"{gcs_bucket}/out/a.parquet").equals(job.to_arrow())
    for _ in range(2):
        job.write(f"{gcs_bucket}/parts/")
    names = [place.name for place in remote_path(f"{gcs_bucket}/parts").below()]
    assert names == ["_SUCCESS", "part-00000.parquet"]


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # the client's own affair
def test_what_is_larger_than_a_block_is_sent_and_read_whole(gcs_bucket, tmp_path):
    (tmp_path / "large").write_bytes(bytes(range(256)) * 80_000)
    place = remote_path(f"{gcs_bucket}/large")
    place.write_file(tmp_path / "large")
    with place.open() as file:
        assert file.read() == (tmp_path / "large").read_bytes()


def test_what_is_not_there_is_named(gcs_bucket):
    with pytest.raises(
        cp.OutputError, match=r"There is no bucket for gs://none/a\.csv\. Create it, or mend the name\."
    ):
        cp.check_output("gs://none/a.csv")
    with pytest.raises(cp.InputError, match=r"No object matches gs://reviews/none\.csv\."):
        cp.estimate(f"{gcs_bucket}/none.csv", prompt_column="text", model="m", max_tokens=1, exact=0)
