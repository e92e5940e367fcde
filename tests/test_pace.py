"""How fast a run asks, and who hands out what its threads find."""

import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from claude_pipeline.crew import Crew
from claude_pipeline.pace import Pace, StoppedError

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def limits(**known):
    """Write headers as the API does: `requests=(remaining, seconds until the reset)`."""
    headers = {"date": format_datetime(NOW, usegmt=True)}
    for name, (remaining, seconds) in known.items():
        prefix = f"anthropic-ratelimit-{name.replace('_', '-')}"
        headers[f"{prefix}-remaining"] = str(remaining)
        headers[f"{prefix}-reset"] = (NOW + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
    return headers


class Places:
    """Threads that take a place each, and hold it."""

    def __init__(self, pace, count):
        self.inside = 0
        self._leave = threading.Event()
        self._threads = [threading.Thread(target=self._take, args=(pace,), daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _take(self, pace):
        with suppress(StoppedError), pace.turn():
            self.inside += 1
            self._leave.wait(30)

    def settle(self, expected):
        """Wait until so many are inside, and a moment more."""
        deadline = time.monotonic() + 20
        while self.inside < expected and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        return self.inside

    def end(self):
        self._leave.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def places():
    opened = []

    def take(pace, count):
        opened.append(Places(pace, count))
        return opened[-1]

    yield take
    for some in opened:
        some.end()


def test_a_run_begins_with_two_and_makes_room_with_every_answer(places):
    pace = Pace(most=4)
    waiting = places(pace, 6)
    assert waiting.settle(2) == 2
    pace.note({})
    assert waiting.settle(3) == 3
    for _ in range(5):
        pace.note({})
    assert waiting.settle(4) == 4


def test_never_more_than_were_allowed_though_it_be_one(places):
    pace = Pace(most=1)
    pace.note({})
    assert places(pace, 3).settle(1) == 1


def test_everybody_rests_when_the_api_says_so_and_half_as_many_go_on(places):
    pace = Pace(most=8)
    for _ in range(8):
        pace.note({})
    pace.slow_down(2.0)
    waiting = places(pace, 8)
    assert waiting.settle(0) == 0
    assert waiting.settle(4) == 4


def test_a_limit_that_is_used_up_is_waited_for_by_the_apis_clock(places):
    pace = Pace(most=2)
    pace.note(limits(requests=(0, 2.0), input_tokens=(10, 3600)))
    waiting = places(pace, 1)
    assert waiting.settle(0) == 0
    assert waiting.settle(1) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {},
        limits(requests=(1, 3600)),
        limits(requests=(0, -5)),
        {"anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-requests-reset": "soon"},
        {"anthropic-ratelimit-requests-remaining": "0"},
    ],
)
def test_headers_that_ask_for_no_rest_give_none(places, headers):
    pace = Pace(most=2)
    pace.note(headers)
    assert places(pace, 1).settle(1) == 1


def test_a_stop_wakes_everybody(places):
    pace = Pace(most=1)
    pace.slow_down(3600)
    waiting = places(pace, 2)
    sleeper = threading.Thread(target=_sleep, args=(pace,), daemon=True)
    sleeper.start()
    pace.stop()
    waiting.end()
    sleeper.join(10)
    assert not sleeper.is_alive()
    for wait in (pace.check, lambda: pace.sleep(1), lambda: pace.turn().__enter__()):
        with pytest.raises(StoppedError):
            wait()


def _sleep(pace):
    with suppress(StoppedError):
        pace.sleep(3600)


def test_a_crew_hands_out_what_its_threads_find_in_one_thread():
    seen = set()

    def work(item):
        seen.add(threading.current_thread().name)
        return item * item

    crew = Crew(work, iter(range(100)), size=4)
    assert sorted(crew) == [n * n for n in range(100)]
    assert threading.current_thread().name not in seen
    crew.join()


def test_what_is_told_comes_out_before_the_result_of_who_told_it():
    def work(item):
        crew.tell(f"begun {item}")
        return f"done {item}"

    crew = Crew(work, iter([1]), size=3)
    assert list(crew) == ["begun 1", "done 1"]


def test_an_error_of_a_thread_or_of_the_items_is_raised_where_the_results_are():
    def fail(item):
        raise KeyError(item)

    with pytest.raises(KeyError, match="1"):
        list(Crew(fail, iter([1]), size=2))

    def items():
        yield 1
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        list(Crew(str, items(), size=2))


def test_a_crew_that_never_began_has_nobody_to_wait_for():
    Crew(str, iter([1]), size=2).join()
