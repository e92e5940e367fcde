"""The address of a request: what it is made of, and that no door changes it.

`golden/requests.json` never changes: whoever moves a `custom_id` bills every user again for answers they have.
"""

import json
from hashlib import blake2b
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from claude_pipeline.forms import build_form
from claude_pipeline.parquets import read_batches
from claude_pipeline.sources import snapshot

GOLDEN = json.loads((Path(__file__).parent / "golden" / "requests.json").read_text(encoding="utf-8"))
WILD = ["", " ", "00123", "1e5", "true", "null", "NaN", "2026-01-02", "a,b", '"', "x\ny", "x\r\ny", "\x00", "é", "🙂"]
CELLS = st.one_of(st.sampled_from(WILD), st.text(st.characters(exclude_categories=["Cs"]), max_size=20))


def render(form, path):
    for _, batch in read_batches(path, form.columns):
        yield from form.render(batch)


@pytest.mark.parametrize("case", GOLDEN, ids=[case["case"] for case in GOLDEN])
def test_a_request_keeps_its_address_and_its_bytes_for_ever(case):
    batch = pa.record_batch({name: [cell] for name, cell in case["row"].items()})
    form = build_form(batch.schema, source="golden", template=case["template"], **case["options"])
    (request,) = form.render(batch)
    assert request.params.decode() == case["params"]
    assert request.address.hex() == case["custom_id"]


@pytest.mark.parametrize("case", GOLDEN, ids=[case["case"] for case in GOLDEN])
def test_an_address_is_the_hash_of_betas_and_salt_and_the_params_as_sent(case):
    header = json.dumps([[], case["options"].get("salt")], ensure_ascii=False, separators=(",", ":")) + "\n"
    hashed = blake2b((header + case["params"]).encode(), digest_size=16)
    assert hashed.hexdigest() == case["custom_id"]


def test_golden_requests_all_differ():
    assert len({case["custom_id"] for case in GOLDEN}) == len(GOLDEN) >= 15


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("doors")


def doors(table, folder):
    """Yield the same table of text as everything that may be submitted."""
    pq.write_table(table, folder / "table.parquet")
    pa.csv.write_csv(table, folder / "table.csv", pa.csv.WriteOptions(quoting_style="all_valid"))
    frame = pd.DataFrame(table.to_pydict())
    yield from (folder / "table.parquet", folder / "table.csv", table, frame, frame.astype("object"))
    yield from (frame.astype("category"), pl.DataFrame(table.to_pydict()), duckdb.from_arrow(table))


@settings(max_examples=40)
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=6))
@example([(wild, "x") for wild in WILD])
def test_the_same_text_has_the_same_address_through_every_door(folder, rows):
    table = pa.table({"a": [a for a, _ in rows], "b": [b for _, b in rows]})
    form = build_form(table.schema, source="doors", template="{b}: {a}", model="claude-haiku-4-5", max_tokens=16)
    expected = list(form.render(table.to_batches()[0]))
    for source in doors(table, folder):
        taken = snapshot(source, folder / "snapshot.parquet")
        assert list(render(form, taken.path)) == expected


def test_the_same_table_is_asked_once_through_all_doors(ask, sandbox, tmp_path):
    texts = [f"{wild}." for wild in WILD]
    for source in doors(pa.table({"text": texts, "other": texts}), tmp_path):
        ask(source).wait(poll_interval=0)
    received = [json.loads(request.params)["messages"][0]["content"] for request in sandbox.requests()]
    assert sorted(received) == sorted(texts)
