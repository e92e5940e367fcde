"""What the prompt cache reads and writes, and for how long."""

import anthropic
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_pipeline.sandbox import Sandbox
from claude_pipeline.sandbox.answers import answer, facts, input_tokens
from claude_pipeline.sandbox.answers.caching import PromptCache

FIVE_MINUTES = 300
HOUR = 3600
LONG = "many words " * 1_000
MARK = {"type": "ephemeral"}
MARK_1H = {"type": "ephemeral", "ttl": "1h"}


def text(words, mark=None):
    block = {"type": "text", "text": words}
    return block if mark is None else block | {"cache_control": mark}


def ask(*content, model="claude-sonnet-4-5", **params):
    return {"model": model, "max_tokens": 100, "messages": [{"role": "user", "content": [*content]}], **params}


class Account:
    """One account's use of a cache."""

    def __init__(self, cache=None, name="one"):
        self.cache, self.name = cache or PromptCache(), name

    def usage(self, params, now=0.0):
        """Return the usage as a message says it; the tokens always add up."""
        charged = self.cache.charge(answer(params, write=facts), params, account=self.name, now=now)
        usage = charged.message(b"", service_tier="standard").usage
        read, written = usage.cache_read_input_tokens, usage.cache_creation_input_tokens
        created = usage.cache_creation
        assert written == created.ephemeral_5m_input_tokens + created.ephemeral_1h_input_tokens
        assert read + written + usage.input_tokens == input_tokens(params)
        return read, written


@pytest.fixture
def account():
    return Account()


def test_the_first_prompt_writes_and_the_second_reads_what_is_marked(account):
    params = ask(text("A question."), system=[text(LONG, MARK)])
    tokens = len(LONG) // 4
    assert account.usage(params) == (0, tokens)
    assert account.usage(params) == (tokens, 0)
    assert account.usage(ask(text("Another."), system=[text(LONG, MARK)])) == (tokens, 0)


@pytest.mark.parametrize("params", [ask(text(LONG)), ask(text(LONG), system=LONG), ask(text(LONG), system=[text("x")])])
def test_what_is_not_marked_is_not_cached(account, params):
    assert [account.usage(params) for _ in range(2)] == [(0, 0)] * 2
    assert isinstance(account.cache.charge(answer(params, write=facts), params, account="x", now=0).content, str)


def test_an_automatic_mark_stands_on_the_last_block(account):
    params = ask(text(LONG), text("The end."), cache_control=MARK)
    assert account.usage(params) == (0, input_tokens(params))
    assert account.usage(params) == (input_tokens(params), 0)


@pytest.mark.parametrize(("mark", "seconds"), [(MARK, FIVE_MINUTES), (MARK_1H, HOUR)])
def test_an_entry_lives_from_its_last_use_on(account, mark, seconds):
    params = ask(text(LONG, mark))
    account.usage(params, 0)
    assert account.usage(params, seconds - 1)[0]
    assert account.usage(params, 2 * seconds - 2)[0]
    assert account.usage(params, 3 * seconds) == (0, len(LONG) // 4)


def test_what_is_written_is_shown_by_how_long_it_lives(account):
    params = ask(text(LONG, MARK), system=[text(LONG, MARK_1H)])
    charged = account.cache.charge(answer(params, write=facts), params, account="one", now=0)
    created = msgspec.to_builtins(charged.message(b"", service_tier="batch").usage.cache_creation)
    assert created == {"ephemeral_1h_input_tokens": len(LONG) // 4, "ephemeral_5m_input_tokens": len(LONG) // 4}
    assert account.usage(params, FIVE_MINUTES + 1) == (len(LONG) // 4, len(LONG) // 4)


def test_tools_come_before_the_system_prompt_and_that_before_messages(account):
    tools = [{"name": "x", "description": LONG, "input_schema": {}, "cache_control": MARK}]
    first = ask(text(LONG, MARK), system=[text(LONG, MARK)], tools=tools)
    account.usage(first)
    other_system = ask(text(LONG, MARK), system=[text("Other.", MARK)], tools=tools)
    read, written = account.usage(other_system)
    assert read == (len(LONG) + 1) // 4
    assert written
    other_tools = ask(text(LONG, MARK), system=[text(LONG, MARK)], tools=[{"name": "y", **tools[0]} | {"name": "y"}])
    assert account.usage(other_tools)[0] == 0


@pytest.mark.parametrize(
    ("model", "least"),
    [
        ("claude-sonnet-4-5", 1024),
        ("claude-opus-4-1", 1024),
        ("claude-3-5-haiku-20241022", 1024),
        ("claude-haiku-4-5-20251001", 4096),
        ("claude-opus-4-6", 4096),
        ("claude-opus-5", 4096),
    ],
)
def test_a_prefix_below_the_models_minimum_is_not_cached(account, model, least):
    assert account.usage(ask(text("x" * 4 * (least - 1), MARK), model=model)) == (0, 0)
    assert account.usage(ask(text("x" * 4 * least, MARK), model=model)) == (0, least)


def test_accounts_and_models_share_nothing(account):
    params = ask(text(LONG, MARK))
    account.usage(params)
    assert Account(account.cache, "other").usage(params)[0] == 0
    assert account.usage(params | {"model": "claude-sonnet-5"})[0] == 0


def test_a_conversation_reads_its_last_turn_when_the_mark_moves_on(account):
    turns = [{"role": "user", "content": LONG}]
    account.usage({**ask(), "messages": [{"role": "user", "content": [text(LONG, MARK)]}]})
    turns += [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": [text("And then?", MARK)]}]
    read, written = account.usage({**ask(), "messages": turns})
    assert read == len(LONG) // 4
    assert 0 < written < 10


def test_a_mark_too_far_back_is_not_found(account):
    account.usage(ask(text(LONG, MARK)))
    blocks = [text(f"Block {number}.") for number in range(20)]
    assert account.usage(ask(text(LONG), *blocks[:19], text("End", MARK)))[0]
    assert account.usage(ask(text(LONG), *blocks, text("End", MARK)))[0] == 0


@given(st.lists(st.tuples(st.sampled_from([LONG, "short ", "x" * 4096]), st.sampled_from([None, MARK_1H])), min_size=1))
def test_a_prompt_that_comes_again_reads_all_that_it_wrote(content):
    account = Account()
    params = ask(*(text(words, mark) for words, mark in content[:4]))
    read, written = account.usage(params)
    assert read == 0
    assert account.usage(params) == (written, 0)


def test_rows_of_a_batch_read_what_the_first_one_wrote_and_the_bill_says_so():
    system = [{"type": "text", "text": "Be brief. " * 1000, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    turns = [[{"role": "user", "content": f"Row {row}."}] for row in range(3)]
    params = {"model": "claude-sonnet-5-5", "max_tokens": 9, "system": system}
    requests = [{"custom_id": f"{row}", "params": {**params, "messages": turn}} for row, turn in enumerate(turns)]
    with Sandbox() as sandbox, anthropic.Anthropic(api_key="any", base_url=sandbox.url) as client:
        batch = client.messages.batches.create(requests=requests)
        client.messages.batches.retrieve(batch.id)
        uses = {line.custom_id: line.result.message.usage for line in client.messages.batches.results(batch.id)}
        later = client.messages.create(**params, messages=turns[0]).usage
        bill = sandbox.usage()
    written = uses["0"].cache_creation_input_tokens
    assert written >= 1024
    assert [uses[row].cache_read_input_tokens for row in "012"] == [0, written, written]
    assert later.cache_read_input_tokens == written
    assert bill["cache_creation_input_tokens"] == written
    assert bill["cache_read_input_tokens"] == 3 * written
