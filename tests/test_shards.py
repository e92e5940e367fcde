"""Requests into shards: sizes to the byte, limits never exceeded."""

import io
import json
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from claude_pipeline.prompts import Request, Requests
from claude_pipeline.shards import Members, cut, largest_request, write_body

SIZES = st.lists(st.integers(0, 300), max_size=40)


def make_requests(sizes):
    return [Request(row.to_bytes(16), b'{"x":"', b"." * size + b'"}') for row, size in enumerate(sizes)]


def gather(requests, **limits):
    """Cut requests as a planner does; list those of each shard."""
    ends = cut(np.array([request.size for request in requests], dtype=np.int64), **limits)
    return [requests[start:stop] for start, stop in pairwise(ends)]


def make_members(requests, *, step=1):
    rows = np.arange(len(requests), dtype=np.int64) * step
    return Members(b"".join(request.address for request in requests), rows)


def write(*pieces):
    file = io.BytesIO()
    size = write_body(map(by_column, pieces), file)
    return size, file.getvalue()


def by_column(requests):
    tails, addresses = [request.tail for request in requests], [request.address for request in requests]
    return Requests(requests[0].head, tails, addresses, {})


@given(SIZES, st.integers(1, 12), st.integers(60, 2_000), st.booleans())
def test_no_shard_exceeds_its_limits_and_none_could_take_the_next_request(sizes, max_requests, max_bytes, first):
    every = make_requests(sizes)
    requests = [request for request in every if request.size <= largest_request(max_bytes)]
    assert requests == [request for request in every if write([request])[0] <= max_bytes]
    shards = gather(requests, max_requests=max_requests, max_bytes=max_bytes, first=first)
    assert [request for shard in shards for request in shard] == requests
    for number, shard in enumerate(shards):
        limit = 1 if first and not number else max_requests
        size, body = write(shard)
        assert size == len(body) <= max_bytes
        assert 1 <= len(shard) <= limit
        if number + 1 < len(shards):
            assert len(shard) == limit or write([*shard, shards[number + 1][0]])[0] > max_bytes


@given(SIZES.filter(len), st.integers(1, 10))
def test_a_body_is_the_json_that_the_api_documents_whatever_pieces_it_is_written_in(sizes, step):
    requests = make_requests(sizes)
    pieces = [requests[start : start + step] for start in range(0, len(requests), step)]
    assert json.loads(write(*pieces)[1]) == {
        "requests": [{"custom_id": r.address.hex(), "params": json.loads(r.params)} for r in requests]
    }


def test_a_body_larger_than_what_is_written_at_once_counts_every_byte():
    size, body = write(make_requests([700_000] * 5))
    assert size == len(body) > 3_500_000


@given(SIZES.filter(len), st.data())
def test_picking_members_keeps_addresses_and_rows_together(sizes, data):
    requests = make_requests(sizes)
    members = make_members(requests, step=3)
    assert members.split() == [request.address for request in requests]
    positions = sorted(data.draw(st.sets(st.integers(0, len(sizes) - 1))))
    picked = members.pick(positions)
    assert picked.split() == [members.address(position) for position in positions]
    assert np.array_equal(picked.rows, members.rows[positions])
