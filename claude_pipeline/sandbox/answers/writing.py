"""Who writes the answers: `facts`, `echo`, or a function of the user's own."""

import re
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final
from zlib import crc32

import msgspec

from claude_pipeline.sandbox.answers.citing import cite
from claude_pipeline.sandbox.answers.fitting import fit
from claude_pipeline.sandbox.answers.reading import blocks, last_user_text
from claude_pipeline.sandbox.answers.written import AnswerFunction
from claude_pipeline.sandbox.params import Params

LONGEST_SENTENCE: Final = 2_000
# Possessive, and without an alternative a character: it reads ten times faster than a search for the end.
FIRST_SENTENCE: Final = re.compile(r"[^.!?\n]*+(?:(?:[.!?](?=\S)|\n(?!\s*\n))[^.!?\n]*+)*+[.!?]?")
NO_TEXT: Final = "There is no text in this message."

Blocks = Sequence[dict[str, Any]]
Tool = dict[str, Any]


class AnswerNameError(ValueError):
    """A name stands for no answer function."""

    def __init__(self, name: str, *, reason: str) -> None:
        ready = ", ".join(READY)
        super().__init__(f"No answer function {name!r}: {reason}. Give {ready}, or module:function of your own.")


def answer_function(name: str) -> AnswerFunction:
    """Return the answer function of a name: `facts`, `echo`, or `module:function`, looked for in this folder too.

    Raises:
        ValueError: There is none; the message says what is missing.
    """
    if name in READY:
        return READY[name]
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise AnswerNameError(name, reason="it is neither ready-made nor of the form module:function")
    return _imported(name, module, function)


def facts(params: Params) -> str | Blocks:
    """Answer with the first sentence of the last user turn, or its first paragraph if that is shorter.

    A request for a tool, for JSON or for citations gets these.
    """
    asked = _as_asked(params)
    return cite(params) or _first_sentence(last_user_text(params)) if asked is None else asked


def echo(params: Params) -> str | Blocks:
    """Answer with the text of the last user turn, unchanged; a request for a tool or for JSON gets that."""
    asked = _as_asked(params)
    return last_user_text(params) or NO_TEXT if asked is None else asked


READY: Final[dict[str, AnswerFunction]] = {"facts": facts, "echo": echo}


def _imported(name: str, module: str, function: str) -> AnswerFunction:
    # A command that was installed does not look into the folder it is called from.
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = getattr(import_module(module), function, None)
    except ModuleNotFoundError as error:
        raise AnswerNameError(name, reason=f"there is no module {error.name!r}") from error
    except Exception as error:
        raise AnswerNameError(name, reason=f"{module} raised {type(error).__name__}: {error}") from error
    if found is None:
        raise AnswerNameError(name, reason=f"{module} has no {function!r}")
    if not callable(found):
        raise AnswerNameError(name, reason=f"{function!r} of {module} is no function but {found!r}")
    write: AnswerFunction = found
    return write


def _first_sentence(text: str) -> str:
    sentence = FIRST_SENTENCE.match(text.strip()[:LONGEST_SENTENCE])
    return sentence[0] if sentence and sentence[0] else NO_TEXT


def _as_asked(params: Params) -> str | Blocks | None:
    tool = _chosen_tool(params) if params.get("tools") else None
    if tool is not None:
        value = fit(tool["input_schema"], prompt=last_user_text(params))
        return [{"type": "tool_use", "name": tool["name"], "input": value if isinstance(value, dict) else {}}]
    schema = _output_schema(params) if "output_config" in params else None
    return None if schema is None else _json_text(fit(schema, prompt=last_user_text(params)))


def _json_text(value: object) -> str:
    return msgspec.json.encode({} if value is None else value).decode()


def _output_schema(params: Params) -> object:
    match params["output_config"]:
        case {"format": {"type": "json_schema", "schema": schema}}:
            return schema
    return None


def _chosen_tool(params: Params) -> Tool | None:
    custom: Sequence[Tool] = [tool for tool in params["tools"] if tool.get("type") in {None, "custom"}]
    choice = params.get("tool_choice") or {"type": "auto"}
    if not custom or choice["type"] == "none" or (choice["type"] == "auto" and _has_result(params)):
        return None
    if choice["type"] == "tool":
        return next((tool for tool in custom if tool["name"] == choice["name"]), None)
    return custom[crc32(last_user_text(params).encode()) % len(custom)]


def _has_result(params: Params) -> bool:
    return any(block.get("type") == "tool_result" for block in blocks(params["messages"][-1]["content"]))
