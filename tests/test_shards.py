"""Requests into shards: sizes to the byte, limits never exceeded."""

import io
import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from claude_pipeline.prompts import Request
from claude_pipeline.shards import ShardBuilder, write_body

SIZES = st.lists(st.integers(0, 300), max_size=40)


def make_requests(sizes):
    return [Request(row.to_bytes(16), b'{"x":"', b"." * size + b'"}') for row, size in enumerate(sizes)]


def gather(requests, builder):
    """Fill shards as a planner does; yield the rows and the counted size of each."""
    for row, request in enumerate(requests):
        if request.size > builder.largest:
            continue
        if not builder.add(request.address, row, size=request.size):
            yield builder.body_bytes, builder.take()
            assert builder.add(request.address, row, size=request.size)
    if builder.rows:
        yield builder.body_bytes, builder.take()


def write(requests):
    file = io.BytesIO()
    size = write_body(requests, file)
    return size, file.getvalue()


@given(SIZES, st.integers(1, 12), st.integers(60, 2_000))
def test_no_shard_exceeds_its_limits_and_every_size_is_exact(sizes, max_requests, max_bytes):
    requests = make_requests(sizes)
    taken = []
    for body_bytes, members in gather(requests, ShardBuilder(max_requests=max_requests, max_bytes=max_bytes)):
        size, body = write([requests[row] for row in members.rows])
        assert size == len(body) == body_bytes <= max_bytes
        assert 1 <= len(members) <= max_requests
        taken += members.rows.tolist()
    too_large = {row for row, request in enumerate(requests) if len(write([request])[1]) > max_bytes}
    assert taken == [row for row in range(len(requests)) if row not in too_large]


@given(SIZES)
def test_a_body_is_the_json_that_the_api_documents(sizes):
    requests = make_requests(sizes)
    assert json.loads(write(requests)[1]) == {
        "requests": [{"custom_id": r.address.hex(), "params": json.loads(r.params)} for r in requests]
    }


def test_a_body_larger_than_what_is_written_at_once_counts_every_byte():
    size, body = write(make_requests([700_000] * 5))
    assert size == len(body) > 3_500_000


@given(SIZES)
def test_members_keep_the_order_and_the_rows_of_their_requests(sizes):
    requests = make_requests(sizes)
    builder = ShardBuilder()
    for row, request in enumerate(requests):
        builder.add(request.address, row * 3, size=request.size)
    members = builder.take()
    assert members.split() == [request.address for request in requests]
    assert members.rows.tolist() == [row * 3 for row in range(len(requests))]
    assert not builder.rows


@given(SIZES.filter(len), st.data())
def test_picking_members_keeps_addresses_and_rows_together(sizes, data):
    builder = ShardBuilder()
    for row, request in enumerate(make_requests(sizes)):
        builder.add(request.address, row, size=request.size)
    members = builder.take()
    positions = sorted(data.draw(st.sets(st.integers(0, len(sizes) - 1))))
    picked = members.pick(positions)
    assert picked.split() == [members.address(position) for position in positions]
    assert np.array_equal(picked.rows, members.rows[positions])


def test_a_builder_knows_the_requests_it_holds_until_they_are_taken():
    (request,) = make_requests([3])
    builder = ShardBuilder()
    builder.add(request.address, 0, size=request.size)
    assert request.address in builder.rows
    builder.take()
    assert request.address not in builder.rows
