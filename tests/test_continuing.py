"""Going on with an answer that broke off."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_pipeline.continuing import Seam, can_continue, continued, joined, takes_prefill

OLD, NEW = "claude-haiku-4-5", "claude-opus-5-5"
ASKED = {"model": OLD, "max_tokens": 9, "messages": [{"role": "user", "content": "Count."}]}


@pytest.mark.parametrize(
    "model",
    [
        "claude-haiku-4-5",
        "claude-haiku-4-5-20251001",
        "claude-opus-4-20250514",
        "claude-opus-4-1",
        "claude-3-5-sonnet-20241022",
        "claude-3-haiku-20240307",
        "claude-2.1",
    ],
)
def test_models_up_to_4_5_take_the_beginning_of_their_answer(model):
    assert takes_prefill(model)


@pytest.mark.parametrize(
    "model", ["claude-opus-4-6", "claude-haiku-5-5", "claude-fable-5-2", "claude-opus-10-1", "claude-x", "gpt-4-1", ""]
)
def test_later_models_and_unknown_ones_do_not(model):
    assert not takes_prefill(model)


def test_the_partial_text_begins_the_assistants_turn_without_blanks_at_its_end():
    asked = msgspec.json.decode(continued(ASKED, "one two \n"))
    assert asked["messages"] == [*ASKED["messages"], {"role": "assistant", "content": "one two"}]
    assert {**asked, "messages": None} == {**ASKED, "messages": None}


def test_from_4_6_on_the_user_quotes_the_partial_text():
    first, second = msgspec.json.decode(continued({**ASKED, "model": NEW}, "one two "))["messages"]
    assert (first, second["role"]) == (ASKED["messages"][0], "user")
    assert "one two " in second["content"]


@pytest.mark.parametrize(
    "more",
    [
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        {"thinking": {"type": "adaptive"}},
        {"output_config": {"format": {"type": "json_schema", "schema": {}}}},
        {"messages": [*ASKED["messages"], {"role": "assistant", "content": "One"}]},
    ],
)
def test_what_was_thought_about_typed_or_begun_by_the_user_starts_again(more):
    assert not can_continue(ASKED | more)


@pytest.mark.parametrize("more", [{}, {"thinking": {"type": "disabled"}}, {"output_config": {"effort": "low"}}])
def test_plain_text_goes_on(more):
    assert can_continue(ASKED | more)


WORDS = st.text(st.characters(exclude_characters="0123456789", codec="utf-8"))


@given(WORDS, st.lists(st.integers(0, 9)), st.text(" \n\t"), st.data())
def test_after_a_prefill_nothing_is_lost_or_said_twice(begun, numbers, blanks, data):
    """What the model says goes on from the last word; it may say the blanks that were not sent, or leave some out."""
    rest = "".join(map(str, numbers))
    repeated = data.draw(st.integers(0, len(blanks)))
    before = begun.rstrip() + blanks
    assert joined(before, blanks[repeated:] + rest, model=OLD) == before + rest


@given(WORDS.filter(lambda text: len(text) >= 16), st.lists(st.integers(0, 9)))
def test_a_model_that_says_the_last_words_again_is_heard_once(begun, numbers):
    rest = "".join(map(str, numbers))
    assert joined(begun, begun[-40:] + rest, model=NEW) == begun + rest


def test_a_short_likeness_is_no_repetition():
    assert joined("ha ha", "ha ha", model=NEW) == "ha haha ha"


@given(st.text(), st.lists(st.text()), st.sampled_from([OLD, NEW]))
def test_what_is_said_piece_by_piece_is_what_is_joined(before, pieces, model):
    seam = Seam(before, model=model)
    said = "".join([*map(seam.add, pieces), seam.finish()])
    assert before + said == joined(before, "".join(pieces), model=model)
