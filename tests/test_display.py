"""A job as text and pictures, without a job."""

from dataclasses import replace
from datetime import datetime
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from claude_pipeline import display, outlook
from claude_pipeline.cli.live import Board, Lines, bar, board, shares
from claude_pipeline.status import BatchStatus, Refusal, RequestCounts, Saved, Status

STARTED = 1_790_000_000.0
RUNNING = Status(
    job_id="job_7f3k",
    name="reviews",
    model="claude-haiku-4-5",
    state="in_progress",
    reason="Waiting for 1 batch.",
    rows=12_000,
    skipped=12,
    invalid=3,
    refusals=(Refusal("missing_field", 3, "Row 2: Column 'a' is null."),),
    duplicates=340,
    reused=97,
    requests=11_548,
    counts=RequestCounts(waiting=548, processing=3_000, succeeded=7_975, errored=20, expired=5),
    unanswered=None,
    input_tokens=1_234_567,
    output_tokens=345_678,
    cache_read_tokens=0,
    cache_write_tokens=0,
    cost_usd=0.4213,
    saved=Saved(duplicates_usd=0.0124, reused_usd=0.0035, caching_usd=0.0, batch_usd=0.4213),
    batches=(
        BatchStatus("msgbatch_1", "ended", 8_000, 1, STARTED, STARTED + 60),
        BatchStatus("msgbatch_2", "in_progress", 3_000, 1, STARTED, None),
    ),
    is_due=True,
    changes=7,
    created_at=STARTED,
    submitted_at=STARTED,
    ended_at=None,
)
ENDED = replace(
    RUNNING,
    state="ended",
    reason=None,
    counts=RequestCounts(succeeded=11_523, errored=20, expired=5),
    unanswered=28,
    batches=(RUNNING.batches[0],),
    ended_at=STARTED + 754,
)
NOTHING, UNKNOWN = Saved(0.0, 0.0, 0.0, 0.0), Saved(None, None, None, None)
COUNTS = st.builds(RequestCounts, *[st.integers(0, 10_000_000)] * 6)


def drawn(status: Status, *, width: int = 80, color: bool = False, after: float = 83) -> str:
    screen = StringIO()
    console = Console(file=screen, width=width, force_terminal=color, no_color=not color)
    console.print(board(status, now=STARTED + after))
    return screen.getvalue()


def test_a_running_job_is_one_line_with_its_answers_batches_and_cost():
    assert display.one_line(RUNNING) == (
        "job_7f3k in_progress · 12,000 rows · 7,975 of 11,548 requests answered · 2 batches · $0.42"
    )


def test_an_ended_job_counts_rows_in_its_one_line():
    assert display.one_line(ENDED) == "job_7f3k ended · 12,000 rows · 11,960 answered · 1 batch · $0.42"


def test_a_full_line_says_what_a_job_waits_for():
    assert display.full_line(RUNNING).endswith("$0.42 · Waiting for 1 batch.")
    assert display.full_line(ENDED) == display.one_line(ENDED)


def test_the_summary_tells_what_became_of_every_row():
    assert display.summary(ENDED).splitlines() == [
        "Rows:        12,000: 11,960 answered, 12 skipped (blank prompt), 28 unanswered",
        "Unanswered:  28 rows: 20 requests errored, 5 requests expired, 3 rows not sent (missing_field)",
        "Not sent:    Row 2: Column 'a' is null.",
        "Requests:    11,548: 11,523 succeeded, 20 errored, 5 expired",
        "Batches:     1",
        "Tokens:      1,234,567 in, 345,678 out",
        "Cost:        $0.42",
        "Saved:       $0.44: $0.42 by batches, $0.0124 by 340 duplicates, $0.0035 by 97 reused rows",
        "Took:        12 min 34 s",
    ]


def test_the_summary_shows_a_row_for_every_reason_not_to_be_sent():
    refusals = (*ENDED.refusals, Refusal("missing_file", 1, "Row 9: Column 'p' names '/x', which does not exist."))
    said = dict(display.facts(replace(ENDED, refusals=refusals)))["Not sent"]
    assert said == "Row 2: Column 'a' is null. Row 9: Column 'p' names '/x', which does not exist."


def test_the_summary_leaves_out_what_did_not_happen():
    clean = replace(
        ENDED, skipped=0, invalid=0, refusals=(), duplicates=0, reused=0, unanswered=0, cost_usd=0.0, saved=NOTHING
    )
    labels = [label for label, _ in display.facts(clean)]
    assert labels == ["Rows", "Requests", "Batches", "Tokens", "Cost", "Took"]


@pytest.mark.parametrize(
    ("saved", "text"),
    [
        (NOTHING, None),
        (replace(NOTHING, batch_usd=0.42), "$0.42 by batches"),
        (Saved(0.0, 0.0, 1.2, 0.36), "$1.56: $0.36 by batches, $1.20 by caching"),
        (Saved(0.0, 0.0, -0.2, 0.36), "$0.16: $0.36 by batches, -$0.20 by caching"),
        (Saved(None, 0.0, 1.2, None), "?: ? by batches, $1.20 by caching"),
        (UNKNOWN, None),
    ],
)
def test_what_was_saved_is_told_by_what_it_was_saved_by(saved, text):
    status = replace(ENDED, duplicates=0, reused=0, saved=saved)
    assert dict(display.facts(status)).get("Saved") == text


@pytest.mark.parametrize("saved", [NOTHING, UNKNOWN])
def test_before_there_are_dollars_the_summary_tells_what_was_not_asked(saved):
    status = replace(RUNNING, duplicates=1, saved=saved)
    assert dict(display.facts(status))["Saved"] == "1 duplicate, 97 reused rows: not asked, not paid"


def test_an_unknown_price_is_said_and_is_not_nothing():
    unknown = replace(ENDED, duplicates=2, reused=0, cost_usd=None, saved=replace(UNKNOWN, caching_usd=0.1))
    facts = dict(display.facts(unknown))
    assert facts["Cost"] == "? (no known price)"
    assert facts["Saved"] == "?: ? by batches, $0.10 by caching, ? by 2 duplicates"
    assert "cost so far: ?" in drawn(unknown)


@pytest.mark.parametrize(
    ("fresh", "read", "written", "text"),
    [
        (100, 0, 0, "100 in, 5 out"),
        (20, 980, 0, "1,000 in (98% from cache), 5 out"),
        (0, 0, 1_000, "1,000 in (0% from cache), 5 out"),
        (1, 99_999, 0, "100,000 in (99% from cache), 5 out"),
    ],
)
def test_tokens_in_are_whole_prompts_with_the_share_that_came_from_the_cache(fresh, read, written, text):
    status = replace(ENDED, input_tokens=fresh, cache_read_tokens=read, cache_write_tokens=written, output_tokens=5)
    assert display.tokens(status) == text


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (None, ""),
        (0.0, "$0.00"),
        (0.00001, "<$0.0001"),
        (0.0123, "$0.0123"),
        (0.42, "$0.42"),
        (1234.5, "$1,234.50"),
        (-0.0123, "-$0.0123"),
    ],
)
def test_dollars_show_the_digits_that_matter(amount, text):
    assert display.usd(amount) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (8.4, "8 s"), (59.6, "1 min 0 s"), (250, "4 min 10 s"), (7_500, "2 h 5 min")],
)
def test_durations_read_as_a_person_says_them(seconds, text):
    assert display.duration(seconds) == text


def test_a_job_in_the_list_has_its_progress_and_an_unknown_price_is_a_question_mark():
    cells = dict(zip(display.LIST_HEADER, display.job_cells(RUNNING), strict=True))
    assert (cells["ROWS"], cells["ANSWERED"], cells["COST"]) == ("12,000", "69%", "$0.42")
    unnamed = replace(RUNNING, name=None, cost_usd=None)
    cells = dict(zip(display.LIST_HEADER, display.job_cells(unnamed), strict=True))
    assert (cells["NAME"], cells["COST"]) == ("-", "?")


def test_one_unanswered_row_in_the_list_is_never_a_hundred_percent():
    def shown(status):
        return dict(zip(display.LIST_HEADER, display.job_cells(status), strict=True))["ANSWERED"]

    assert shown(replace(ENDED, unanswered=1)) == "99%"
    assert shown(replace(ENDED, unanswered=0)) == "100%"
    assert shown(replace(ENDED, rows=12, unanswered=0)) == "-"


def test_a_job_that_asks_nothing_is_done_when_it_has_ended():
    nothing = replace(ENDED, requests=0, counts=RequestCounts())
    assert display.percent(nothing) == "100%"
    assert display.percent(replace(nothing, state="planning")) == "0%"


def test_on_a_narrow_board_only_the_ids_of_batches_are_cut():
    batches = [BatchStatus(f"msgbatch_{n:024}", "in_progress", 5_000, 1, STARTED + n, None) for n in range(12)]
    said = drawn(replace(RUNNING, batches=(*RUNNING.batches, *batches)), width=60).splitlines()
    assert max(map(len, said)) <= 60
    first = next(line for line in said if line.startswith("msgbatch_2"))
    assert first.split() == ["msgbatch_2", "in_progress", "3,000", "1", "min", "23", "s", "-"]
    assert sum("…" in line and "in_progress" in line for line in said) == 7
    assert "… and 6 more batches" in [line.strip() for line in said]
    assert "cost so far: $0.42" in " ".join(said)


def clock(seconds):
    return f"{datetime.fromtimestamp(STARTED + seconds).astimezone():%a %H:%M}"


@pytest.mark.parametrize(
    ("status", "after", "said"),
    [
        (RUNNING, 120, f"4,000 requests a minute so far; at this rate the last by about {clock(120 + 53.22)}."),
        (
            replace(RUNNING, counts=RequestCounts(processing=3_000, succeeded=8_000)),
            48_000,
            f"10 requests a minute so far. The last ends by {clock(86_400)} at the latest.",
        ),
        (
            replace(RUNNING, batches=RUNNING.batches[1:]),
            120,
            f"Most batches end within an hour, the last of these by {clock(86_400)} at the latest.",
        ),
        (replace(RUNNING, batches=()), 120, None),
        (ENDED, 120, None),
    ],
)
def test_what_is_expected_rests_on_batches_that_have_ended_and_else_on_the_limit_of_a_day(status, after, said):
    assert outlook.expected(status, now=STARTED + after) == said
    assert said is None or said in " ".join(drawn(status, after=after, width=200).split())


def test_a_board_says_what_is_planned_uploaded_and_collected_until_it_is_done():
    watched = Board("Planning")

    def seen(event, **told):
        watched.hear(event, told)
        screen = StringIO()
        Console(file=screen, width=80).print(watched)
        return screen.getvalue().strip()

    seen("batch.planned", requests=100_000)
    assert seen("batch.planned", requests=20_000).endswith("Planning: 120,000 requests planned so far")
    assert seen("batch.uploading", requests=9, sent=64_000_000, bytes=256_000_000).endswith(
        "uploading a batch of 9 requests, 64 MB of 256 MB"
    )
    assert seen("batch.sent").endswith("Planning")
    watched.show(RUNNING)
    assert seen("batch.ended", batch_id="msgbatch_9").endswith("Now collecting msgbatch_9")
    assert "Now" not in seen("batch.collected")


def test_an_open_batch_takes_until_now():
    took = [cells[-1] for cells in display.batch_cells(RUNNING, now=STARTED + 83)]
    assert took == ["1 min 0 s", "1 min 23 s"]


def test_figures_stand_to_the_right_and_text_to_the_left():
    assert display.columns([("JOB", "ROWS"), ("job_1", "1"), ("job_22", "12,000")]) == [
        "JOB       ROWS",
        "job_1        1",
        "job_22  12,000",
    ]


def test_lines_are_printed_only_when_something_has_changed(capsys):
    lines = Lines()
    for status in (RUNNING, RUNNING, ENDED, ENDED):
        lines.show(status)
    captured = capsys.readouterr()
    running, ended = captured.err.splitlines()
    assert running.startswith(f"{display.full_line(RUNNING)} · ")
    assert "at the latest" in running
    assert ended == display.full_line(ENDED)
    assert captured.out == ""


@given(counts=COUNTS, width=st.integers(6, 300))
def test_the_bar_is_exactly_as_wide_as_asked_and_shows_every_state_there_is(counts, width):
    divided = dict(shares(counts, width=width))
    present = {state for state, number in display.by_state(counts) if number}
    assert set(divided) == present
    assert all(cells >= 1 for cells in divided.values())
    assert sum(divided.values()) == (width if present else 0)


def test_the_bar_reads_without_colours_and_without_unicode():
    counts = RequestCounts(succeeded=50, errored=10, processing=20, waiting=20)
    assert bar(counts, width=10).plain == "████▚▒▒░░░"
    assert bar(counts, width=10, ascii_only=True).plain == "####x==---"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_board_shows_the_job_its_states_and_its_cost_within_the_terminal(width):
    text = drawn(RUNNING, width=width)
    assert max(map(len, text.splitlines())) <= width
    for part in ("job_7f3k", "7,975 succeeded", "1 of 2 ended", "1 min 23 s", "Waiting for 1 batch."):
        assert part in text


def test_the_board_has_colours_only_where_colours_are_wanted():
    assert "\x1b[32m" in drawn(RUNNING, color=True)
    assert "\x1b" not in drawn(RUNNING)


def test_a_job_name_is_text_and_not_markup():
    assert "[red]x[/red]" in drawn(replace(RUNNING, name="[red]x[/red]"))
