"""The resource: one place for credentials and limits, and a client for assets of one's own whose tokens are counted."""

from threading import Thread

import dagster as dg
import pytest
from locations import Location, build_labels

import claude_pipeline as cp
from claude_pipeline.dagster import ClaudeResource

ASK = {"model": "claude-haiku-4-5", "max_tokens": 64, "messages": [{"role": "user", "content": "Say something."}]}


@pytest.fixture
def claude(sandbox, store):
    """Ask the sandbox."""
    return ClaudeResource(base_url=sandbox.url, api_key="sandbox", store=str(store))


def said_by(claude, ask, **options):
    """Materialize an asset that asks, and return what its page says."""

    @dg.asset(**options)
    def headline(context: dg.AssetExecutionContext, claude: ClaudeResource) -> None:
        ask(context, claude)

    result = dg.materialize([headline], resources={"claude": claude})
    (event,) = result.get_asset_materialization_events()
    return {name: value.value for name, value in event.materialization.metadata.items()}


def total(usages):
    return sum(usage.input_tokens for usage in usages), sum(usage.output_tokens for usage in usages)


def test_calls_of_an_asset_are_counted_on_its_page(claude):
    usages = []

    def ask(context, claude):
        with claude.client(context) as client:
            usages.extend(client.messages.create(**ASK).usage for _time in range(2))

    said = said_by(claude, ask)

    assert (said["claude/calls"], said["claude/models"]) == (2, "claude-haiku-4-5")
    assert (said["claude/input_tokens"], said["claude/output_tokens"]) == total(usages)
    assert said["claude/cost_usd"] > 0
    assert min(total(usages)) > 0


def test_several_clients_of_one_step_count_each_call_once(claude):
    def ask(context, claude):
        for _client in range(3):
            with claude.client(context) as client:
                client.messages.create(**ASK)

    assert said_by(claude, ask)["claude/calls"] == 3


def test_a_streamed_answer_is_counted_when_it_was_read(claude):
    usages = []

    def ask(context, claude):
        with claude.client(context) as client:
            with client.messages.stream(**ASK) as stream:
                usages.append(stream.get_final_message().usage)
            list(client.messages.create(**ASK, stream=True))

    said = said_by(claude, ask)

    (usage,) = usages
    assert said["claude/calls"] == 2
    assert said["claude/output_tokens"] == 2 * usage.output_tokens
    assert said["claude/input_tokens"] == 2 * usage.input_tokens


def test_calls_from_threads_are_all_counted(claude):
    def ask(context, claude):
        with claude.client(context) as client:
            threads = [Thread(target=client.messages.create, kwargs=ASK) for _thread in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    assert said_by(claude, ask)["claude/calls"] == 8


def test_two_models_are_told_apart(claude):
    def ask(context, claude):
        with claude.client(context) as client:
            for model in ("claude-haiku-4-5", "claude-opus-5-5"):
                client.messages.create(**ASK | {"model": model})

    said = said_by(claude, ask)

    parts = [said[f"claude/{model}/output_tokens"] for model in ("claude-haiku-4-5", "claude-opus-5-5")]
    assert sum(parts) == said["claude/output_tokens"]


def test_other_calls_and_refused_ones_are_not_counted(claude, sandbox):
    def ask(context, claude):
        with claude.client(context) as client:
            client.messages.count_tokens(model=ASK["model"], messages=ASK["messages"])
            client.models.list()
            sandbox.fail_next("messages", 400)
            with pytest.raises(Exception, match="400"):
                client.messages.create(**ASK)

    assert said_by(claude, ask) == {}


def test_the_calls_of_an_op_are_counted_on_its_output(claude):
    @dg.op
    def headline(context: dg.OpExecutionContext, claude: ClaudeResource) -> str:
        with claude.client(context) as client:
            return client.messages.create(**ASK).content[0].text

    @dg.job(resource_defs={"claude": claude})
    def ask():
        headline()

    result = ask.execute_in_process()

    (output,) = [e.step_output_data for e in result.all_events if e.is_successful_output]
    assert output.metadata["claude/calls"].value == 1


def test_a_step_that_makes_several_assets_says_whose_calls_they_are(claude):
    heard = []

    @dg.multi_asset(specs=[dg.AssetSpec("one"), dg.AssetSpec("two")])
    def both(context: dg.AssetExecutionContext, claude: ClaudeResource):
        with pytest.raises(cp.InputError) as raised:
            claude.client(context)
        heard.append(str(raised.value))
        with claude.client(context, asset_key=dg.AssetKey("two")) as client:
            client.messages.create(**ASK)

    result = dg.materialize([both], resources={"claude": claude})

    assert heard == ["This step makes several assets (one, two). Pass asset_key= to say whose calls these are."]
    calls = {
        event.asset_key.to_user_string(): "claude/calls" in event.materialization.metadata
        for event in result.get_asset_materialization_events()
    }
    assert calls == {"one": False, "two": True}


def test_limits_hold_for_every_submission_that_says_nothing_else(store):
    with cp.Sandbox(batch_seconds=3600) as slow, dg.DagsterInstance.ephemeral() as instance:
        claude = ClaudeResource(base_url=slow.url, api_key="sandbox", store=str(store), max_queued_requests=2)
        location = Location(instance, claude, build_labels(max_batch_requests=1))
        location.materialize("labels_batch")
        assert slow.usage()["batches"] == 2
        topics = build_labels(key="topics", template="Topic: {text}", max_batch_requests=1, max_queued_requests=3)
        Location(instance, claude, topics).materialize("topics_batch")
        assert slow.usage()["batches"] == 3


def test_a_budget_of_the_store_refuses_before_anything_is_sent(sandbox, store):
    claude = ClaudeResource(base_url=sandbox.url, api_key="sandbox", store=str(store), budget_usd=1e-9)
    with dg.DagsterInstance.ephemeral() as instance:
        run = Location(instance, claude, build_labels()).materialize("labels_batch")

    assert "of the budget of the store. Nothing was sent." in run.reason
    assert sandbox.usage()["batches"] == 0


@pytest.mark.parametrize("limit", [{"max_queued_requests": 0}, {"max_attempts": 0}, {"budget_usd": -1}])
def test_limits_that_are_none(limit):
    (name,) = limit
    with pytest.raises(Exception, match=name):
        ClaudeResource(**limit)


def test_a_field_of_the_resource_that_there_is_not_names_the_nearest():
    with pytest.raises(TypeError, match=r"no field 'budjet_usd'\. Did you mean 'budget_usd'\?"):
        ClaudeResource(budjet_usd=5)
