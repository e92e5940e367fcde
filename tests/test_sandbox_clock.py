"""The sandbox's clock: stepped, set and sped up."""

from math import inf, nan
from time import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_pipeline.sandbox.clock import MOST_SECONDS, Clock

SLACK = 5.0
HOUR = 3600.0


def test_a_clock_left_alone_shows_the_real_time():
    assert Clock().now() == pytest.approx(time(), abs=SLACK)


@given(steps=st.lists(st.floats(0, 10 * HOUR)))
def test_steps_add_up(steps):
    clock = Clock()
    for step in steps:
        clock.advance(step)
    assert clock.now() == pytest.approx(time() + sum(steps), abs=SLACK)


@pytest.mark.parametrize("seconds", [-1, -inf, inf, nan, MOST_SECONDS * 2])
def test_a_step_back_or_out_of_time_is_refused_and_changes_nothing(seconds):
    clock = Clock()
    with pytest.raises(ValueError, match="A clock goes forward"):
        clock.advance(seconds)
    assert clock.now() == pytest.approx(time(), abs=SLACK)


def test_a_clock_that_is_set_goes_on_from_there():
    clock = Clock()
    clock.set(1_000_000_000.0)
    clock.advance(HOUR)
    assert clock.now() == pytest.approx(1_000_000_000 + HOUR, abs=SLACK)


@pytest.mark.parametrize("now", [-inf, nan, 3 * MOST_SECONDS])
def test_a_clock_is_not_set_to_a_time_that_no_timestamp_can_show(now):
    with pytest.raises(ValueError, match="within a century"):
        Clock().set(now)


def test_a_clock_that_stands_moves_only_when_stepped():
    clock = Clock(speed=0)
    before = clock.now()
    assert clock.now() == before
    clock.advance(HOUR)
    assert clock.now() == before + HOUR


def test_a_clock_sped_up_keeps_the_time_it_had_and_runs_faster_from_there():
    clock = Clock(speed=0)
    before = clock.now()
    clock.speed_up(1e6)
    first, second = clock.now(), clock.now()
    assert before <= first < second
    clock.speed_up(0)
    assert clock.now() == clock.now() >= second


@pytest.mark.parametrize("speed", [-1, nan, inf])
def test_a_clock_does_not_run_backwards(speed):
    with pytest.raises(ValueError, match="A clock runs at 0"):
        Clock().speed_up(speed)
    with pytest.raises(ValueError, match="A clock runs at 0"):
        Clock(speed=speed)


def test_every_step_is_told_so_that_it_can_be_kept():
    steps: list[float] = []
    clock = Clock(speed=0, on_step=steps.append)
    clock.advance(HOUR)
    clock.set(clock.now() - 60)
    assert steps == [HOUR, -60]
