"""A job's HTML card, without a job or a browser; and the bar's words."""

from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_pipeline import progress
from claude_pipeline.cards import card
from claude_pipeline.status import BatchStatus, RequestCounts, Saved, Status

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
    return " ".join("".join(Page(card(status)).texts).split())


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
    styles = [attributes.get("style", "") for _, attributes in Page(card(RUNNING)).elements]
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
        return {attributes["style"] for _, attributes in Page(card(status)).elements if "style" in attributes}

    assert styles(replace(ENDED, unanswered=1)) != styles(ENDED)
    assert "1 unanswered" in words(replace(ENDED, unanswered=1))


@pytest.mark.parametrize("status", [RUNNING, FRESH, ENDED, replace(RUNNING, name=None)])
def test_a_card_is_one_element_without_scripts_or_addresses(status):
    page = Page(card(status))
    assert not page.open
    assert {tag for tag, _ in page.elements} <= {"div", "span", "strong", "bdi"}
    assert {name for _, attributes in page.elements for name in attributes} == {"style"}
    assert "url(" not in card(status)


@given(name=st.text(min_size=1), reason=st.text(min_size=1), model=st.text(min_size=1))
def test_whatever_stands_in_a_name_or_a_reason_stays_text(name, reason, model):
    page = Page(card(replace(RUNNING, name=name, reason=reason, model=model)))
    assert page.elements == Page(card(RUNNING)).elements
    assert {name, reason, model} <= set(page.texts)


def test_the_bar_says_how_many_requests_have_come_to_a_result_and_what_the_job_waits_for(capsys):
    bar = progress.Bar()
    for status in (FRESH, RUNNING):
        bar.show(status)
    bar.close()
    drawn = capsys.readouterr()
    last = drawn.out.rstrip().rpartition("\r")[2]
    assert last.startswith(" 69% |███")
    assert last.endswith("800 of 1,148 requests · 1 of 2 batches wait for room in the queue.")
    assert drawn.err == ""


def test_a_job_that_asks_nothing_itself_has_no_bar(capsys):
    bar = progress.Bar()
    bar.show(replace(ENDED, requests=0, counts=RequestCounts()))
    bar.close()
    assert capsys.readouterr() == ("", "")
