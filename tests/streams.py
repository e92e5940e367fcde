"""What the tests of streaming share: a table asked of a sandbox, row by row."""

import json

import pyarrow as pa

import claude_pipeline as cp

OLD, NEW = "claude-haiku-4-5", "claude-haiku-5-5"


def stream_from(sandbox, source, **options):
    """Stream a table, or a list of prompts, with what most tests do not vary."""
    if isinstance(source, list):
        source = pa.table({"text": pa.array(source, pa.string())})
    if not {"template", "messages_column"} & options.keys():
        options.setdefault("prompt_column", "text")
    return cp.stream(source, **{"model": OLD, "max_tokens": 64, "base_url": sandbox.url, **options})


def echo(params):
    return params["messages"][-1]["content"]


def asked_messages(sandbox):
    """List the requests that the sandbox has had for messages."""
    return [line for line in sandbox.log() if line.path == "/v1/messages"]


def going_on(text):
    """Answer with a text, or with its rest to whoever shows its beginning."""

    def answer(params):
        last = params["messages"][-1]
        if last["role"] == "assistant":
            begun = last["content"]
            assert text.startswith(begun), begun
            return text[len(begun) :]
        if "interrupted and ended with:" in last["content"]:
            begun = last["content"].partition("ended with:\n\n")[2].partition("\n\nContinue from")[0]
            assert text.startswith(begun), begun
            return text[len(begun) :]
        return text

    return answer


def fate(words):
    """Let a prompt choose what it comes to: `words` are the errors that it may name."""
    return lambda _custom_id, params, _attempt: next((word for word in words if word in json.dumps(params)), None)
