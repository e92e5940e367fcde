"""Batches over a slow link: bodies as gzip, the same requests in fewer bytes."""

import pytest
from conftest import submit_to

import claude_pipeline as cp

PROMPTS = [f"Sum up review {n}: " + "the food was fine and the service was quick, " * 8 for n in range(200)]


@pytest.fixture
def sent(tmp_path, monkeypatch, caplog):
    """Ask with a value of the variable; return the params that came, and how many bytes were sent."""
    caplog.set_level("INFO", logger="claude_pipeline")

    def send(wanted):
        caplog.clear()
        monkeypatch.setenv("CLAUDE_PIPELINE_GZIP", wanted)
        with cp.Sandbox() as sandbox:
            job = submit_to(sandbox, PROMPTS, store=tmp_path / f"store-{wanted}")
            job.wait(poll_interval=0.05)
            assert job.to_pandas()["result_type"].tolist() == ["succeeded"] * len(PROMPTS)
            came = [request.params for request in sandbox.requests()]
        (told,) = [vars(record) for record in caplog.records if vars(record).get("event") == "batch.sent"]
        return came, told["bytes"]

    return send


def test_packed_bodies_ask_the_same_in_a_fifth_of_the_bytes(sent):
    (asked, size), (packed, packed_size) = sent(""), sent("1")
    assert len(asked) == len(PROMPTS)
    assert packed == asked
    assert packed_size < size / 5


def test_zero_is_no(sent):
    assert sent("0")[1] == sent("")[1]


def test_a_word_that_is_neither_yes_nor_no_is_refused_before_anything_is_sent(sent):
    with pytest.raises(cp.InputError, match=r"CLAUDE_PIPELINE_GZIP is 'please'. Set it to 1"):
        sent("please")
