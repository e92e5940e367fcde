"""A job's HTML card, without a job or a browser."""

from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_pipeline import outlook
from claude_pipeline.cards import card
from claude_pipeline.status import BatchStatus, RequestCounts, Saved, Status

NOW = 754.0
RUNNING = Status(
    job_id="job_7f3k",
    name="reviews",
    model="claude-haiku-4-5",
    state="in_progress",
    reason="1 of 2 batches wait for room in the queue.",
    rows=1_200,
    skipped=12,
    invalid=0,
    refusals=(),
    duplicates=40,
    reused=0,
    requests=1_148,
    counts=RequestCounts(waiting=48, processing=300, succeeded=795, errored=5),
    unanswered=None,
    input_tokens=123_456,
    output_tokens=34_567,
    cache_read_tokens=0,
    cache_write_tokens=0,
    cost_usd=0.1482,
    saved=Saved(duplicates_usd=0.0074, reused_usd=0.0, caching_usd=0.0, batch_usd=0.1482),
    batches=(
        BatchStatus("msgbatch_1", "ended", 800, 1, 0.0, 60.0),
        BatchStatus("msgbatch_2", "in_progress", 300, 1, 0.0, None),
    ),
    is_due=False,
    changes=3,
    created_at=0.0,
    submitted_at=0.0,
    ended_at=None,
)
FRESH = replace(
    RUNNING,
    counts=RequestCounts(),
    requests=0,
    input_tokens=0,
    output_tokens=0,
    cost_usd=0.0,
    saved=Saved(0.0, 0.0, 0.0, 0.0),
    batches=(),
)
ENDED = replace(RUNNING, state="ended", reason=None, counts=RequestCounts(succeeded=1_148), unanswered=0, ended_at=90.0)


class Page(HTMLParser):
    """What a browser sees: elements with their attributes, and texts."""

    def __init__(self, html):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def words(status):
    return " ".join("".join(Page(card(status, now=NOW)).texts).split())


def test_a_running_job_shows_who_it_is_how_far_it_is_and_what_it_costs():
    said = words(RUNNING)
    for part in ("reviews", "job_7f3k", "in_progress", "claude-haiku-4-5", "795 succeeded", "69% of 1,148 requests"):
        assert part in said
    for part in ("1 of 2 ended", "123,456 in, 34,567 out", "$0.15", "wait for room in the queue."):
        assert part in said


def test_a_card_shows_what_was_saved_and_how_much_came_from_the_cache():
    cached = replace(RUNNING, input_tokens=0, cache_read_tokens=900, cache_write_tokens=100)
    said = words(replace(cached, saved=replace(RUNNING.saved, caching_usd=0.5)))
    assert "1,000 in (90% from cache), 34,567 out" in said
    assert "$0.66: $0.15 by batches, $0.50 by caching, $0.0074 by 40 duplicates" in said


def test_the_bar_has_a_share_for_every_state_that_is_not_empty():
    styles = [attributes.get("style", "") for _, attributes in Page(card(RUNNING, now=NOW)).elements]
    assert [style.split()[0] for style in styles if style.startswith("flex:")] == [
        "flex:795",
        "flex:5",
        "flex:300",
        "flex:48",
    ]


def test_a_job_that_has_sent_nothing_has_no_bar_and_no_zeros():
    said = words(FRESH)
    assert "1,200" in said
    assert "40 duplicates: not asked, not paid" in said
    for part in ("requests", "Batches", "Tokens", "Cost"):
        assert part not in said


def test_an_ended_job_says_how_long_it_took_and_gives_no_reason():
    assert words(ENDED).endswith("Took 1 min 30 s")


def test_an_end_with_rows_unanswered_has_another_colour():
    def styles(status):
        return {attributes["style"] for _, attributes in Page(card(status, now=NOW)).elements if "style" in attributes}

    assert styles(replace(ENDED, unanswered=1)) != styles(ENDED)
    assert "1 unanswered" in words(replace(ENDED, unanswered=1))


@pytest.mark.parametrize("status", [RUNNING, FRESH, ENDED, replace(RUNNING, name=None)])
def test_a_card_is_one_element_without_scripts_or_addresses(status):
    page = Page(card(status, now=NOW))
    assert not page.open
    assert {tag for tag, _ in page.elements} <= {"div", "span", "strong", "bdi"}
    assert {name for _, attributes in page.elements for name in attributes} == {"style"}
    assert "url(" not in card(status, now=NOW)


@given(name=st.text(min_size=1), reason=st.text(min_size=1), model=st.text(min_size=1))
def test_whatever_stands_in_a_name_or_a_reason_stays_text(name, reason, model):
    page = Page(card(replace(RUNNING, name=name, reason=reason, model=model), now=NOW))
    assert page.elements == Page(card(RUNNING, now=NOW)).elements
    assert {name, reason, model} <= set(page.texts)


def test_batches_have_their_ids_and_their_ages_those_that_run_first():
    said = words(RUNNING)
    assert "msgbatch_2 300 requests in_progress for 12 min 34 s msgbatch_1 800 requests ended after 1 min 0 s" in said


def test_of_many_batches_those_that_run_and_those_that_ended_last_are_shown():
    ended = [BatchStatus(f"old_{n}", "ended", 10, 1, 0.0, float(n)) for n in range(50)]
    said = words(replace(RUNNING, batches=(*ended, BatchStatus("new", "canceling", 1, 2, 700.0, None))))
    assert "new 1 request attempt 2 canceling for 54 s old_49" in said
    assert "old_46" not in said


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (replace(RUNNING, state="planning"), "plans its requests and sends them"),
        (RUNNING, "; at this rate the last by about "),
        (
            replace(RUNNING, batches=RUNNING.batches[1:]),
            f"by {datetime.fromtimestamp(24 * 3600).astimezone():%a %H:%M} at the latest",
        ),
        (replace(RUNNING, is_due=True), "collects and sends what is due"),
        (replace(RUNNING, state="canceling"), "collects what was answered before"),
        (replace(RUNNING, state="blocked"), "until that is mended and resume() is called"),
        (replace(ENDED, unanswered=2), "failed() shows the rows without an answer, and why. resume() asks them again."),
        (replace(ENDED, unanswered=2, batches=()), "failed() shows the rows without an answer, and why."),
        (replace(ENDED, unanswered=2, invalid=1), "resume() asks them again. Mend what could not be sent and submit"),
        (replace(ENDED, unanswered=2, invalid=2), "and why. Mend what could not be sent and submit the table again."),
        (ENDED, None),
    ],
)
def test_a_card_says_what_happens_next_and_when(status, said):
    upcoming = outlook.upcoming(status, now=NOW)
    assert upcoming is None if said is None else said in upcoming
    assert ("Next" in words(status)) == (said is not None)
