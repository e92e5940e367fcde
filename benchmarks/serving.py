"""The server of a measurement, in a process of its own: its arguments are ANSWERS BATCH_SECONDS.

Its batches end at once unless told otherwise, and what it answers follows from the prompt alone.
"""

import sys
from threading import Event
from typing import Any, Final

import msgspec

from claude_pipeline.sandbox import Sandbox
from claude_pipeline.sandbox.answers import AnswerFunction, facts

from .task import FILLER


def text(params: dict[str, Any]) -> str | list[dict[str, Any]]:
    """Answer with the first sentence of the prompt; whoever can read typed answers only gets it as a field."""
    said = {"response": facts({"messages": params["messages"]})}
    if tools := params.get("tools"):
        return [{"type": "tool_use", "name": tools[-1]["name"], "input": said}]
    return msgspec.json.encode(said).decode() if "output_config" in params else str(said["response"])


def long(params: dict[str, Any]) -> str:
    """Answer with 16 kB that begin with the first sentence."""
    return f"{facts(params)}{FILLER}"


def fields(params: dict[str, Any]) -> str:
    """Answer with JSON that tells the prompt's number and first sentence."""
    said = str(facts({"messages": params["messages"]}))
    number = int(said.partition(":")[0].removeprefix("Review "))
    return msgspec.json.encode({"number": number, "opening": said, "positive": number % 2 == 0}).decode()


ANSWERS: Final[dict[str, AnswerFunction]] = {"text": text, "long": long, "fields": fields}


def main() -> None:
    """Print the URL once it accepts connections, and serve until it is ended."""
    answers, batch_seconds = sys.argv[1:]
    with Sandbox(answer=ANSWERS[answers], batch_seconds=float(batch_seconds)) as sandbox:
        sys.stdout.write(f"{sandbox.url}\n")
        sys.stdout.flush()
        Event().wait()


if __name__ == "__main__":
    main()
