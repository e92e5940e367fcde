"""Which parameters of a message the API accepts."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

from claude_pipeline.sandbox.errors import InvalidRequestError, NotFoundError
from claude_pipeline.sandbox.params.breakpoints import check_breakpoints
from claude_pipeline.sandbox.params.message_shapes import (
    SERVER_TOOLS,
    AnyChoice,
    CustomTool,
    Message,
    NoneChoice,
    Prompt,
    ServerTool,
    ThinkingEnabled,
    Tool,
    ToolChoice,
)
from claude_pipeline.sandbox.params.refusals import fit, refuse_tag
from claude_pipeline.sandbox.params.turn_shapes import Json, TextOnly
from claude_pipeline.sandbox.params.turns import check_prefill, check_text, check_texts, check_turns

Params = Mapping[str, Any]
AnyPrompt = TypeVar("AnyPrompt", bound=Prompt)

VERSIONS: Final = ("2023-06-01", "2026-10-21")
WITHOUT_SAMPLING: Final = "2026-10-21"
SAMPLING: Final = frozenset({"temperature", "top_k", "top_p"})
REFUSED_IN_BATCHES: Final = ("speed", "store")
MOST_MAX_TOKENS: Final = 300_000


def check_message(params: object, *, version: str) -> Params:
    """Return the parameters of a message, or raise an `ApiError` that names the wrong one."""
    return _check_message(params, version=version)[0]


def check_in_batch(params: object, *, version: str) -> Params:
    """Check what `check_message` checks, and that nothing asks for what a batch cannot do."""
    checked, message = _check_message(params, version=version)
    if message.stream:
        raise InvalidRequestError("stream: Streaming is not supported in a batch")
    if message.max_tokens < 1:
        raise InvalidRequestError("max_tokens: Input should be greater than or equal to 1")
    for key in REFUSED_IN_BATCHES:
        if getattr(message, key) is not None:
            raise InvalidRequestError(f"{key}: Not supported in a batch")
    return checked


def check_prompt(params: object, *, version: str) -> Params:  # noqa: ARG001 - the same in every version, so far
    """Check what counting tokens takes: model, messages, system, tools and how to use them."""
    return _read(params, Prompt)[0]


def _check_message(params: object, *, version: str) -> tuple[Params, Message]:
    checked, message = _read(params, Message)
    if message.max_tokens > MOST_MAX_TOKENS:
        raise InvalidRequestError(f"max_tokens: {message.max_tokens} > {MOST_MAX_TOKENS}, the most that a model allows")
    if isinstance(message.thinking, ThinkingEnabled) and message.thinking.budget_tokens >= message.max_tokens:
        raise InvalidRequestError("thinking.budget_tokens: `max_tokens` must be greater than `thinking.budget_tokens`")
    if message.stop_sequences and not all(stop.strip() for stop in message.stop_sequences):
        raise InvalidRequestError("stop_sequences: each stop sequence must contain non-whitespace")
    if version == WITHOUT_SAMPLING and not SAMPLING.isdisjoint(checked):
        _check_no_sampling(checked)
    check_prefill(message.messages, model=message.model)
    return checked, message


def _read(params: object, shape: type[AnyPrompt]) -> tuple[Params, AnyPrompt]:
    if not isinstance(params, dict):
        raise InvalidRequestError("params: Input should be an object")
    prompt = fit(params, shape)
    if not prompt.model.startswith("claude-"):
        raise NotFoundError(f"model: {prompt.model}")
    in_blocks = check_turns(prompt.messages)
    if prompt.system:
        _check_system(prompt.system)
    tools = _read_tools(prompt.tools) if prompt.tools else ()
    if prompt.tool_choice is not None:
        _check_tool_choice(prompt, tools)
    if in_blocks or tools or prompt.system:
        check_breakpoints(prompt, tools=tools)
    return params, prompt


def _check_system(system: str | Sequence[TextOnly]) -> None:
    if isinstance(system, str):
        check_text(system, path="system")
    else:
        check_texts(system, path="system")


def _read_tools(tools: Sequence[Json]) -> list[Tool]:
    read = [_read_tool(tool, path=f"tools.{index}") for index, tool in enumerate(tools)]
    names = [tool.name for tool in read if tool.name is not None]
    if len(set(names)) < len(names):
        raise InvalidRequestError("tools: Tool names must be unique.")
    return read


def _read_tool(tool: Json, *, path: str) -> Tool:
    if tool.get("type") in (None, "custom"):
        return fit(tool, CustomTool, path=path)
    server_tool = fit(tool, ServerTool, path=path)
    if server_tool.type not in SERVER_TOOLS:
        raise refuse_tag(server_tool.type, path=path, known=["custom", *SERVER_TOOLS])
    name = SERVER_TOOLS[server_tool.type]
    if name is not None and server_tool.name != name:
        raise InvalidRequestError(f"{path}.name: Input should be {name!r}")
    return server_tool


def _check_tool_choice(prompt: Prompt, tools: Sequence[Tool]) -> None:
    choice = prompt.tool_choice
    if not tools and prompt.mcp_servers is None and not isinstance(choice, NoneChoice):
        raise InvalidRequestError("tool_choice: may only be specified while providing `tools`")
    if isinstance(choice, ToolChoice) and all(tool.name != choice.name for tool in tools):
        raise InvalidRequestError(f"tool_choice.name: Tool {choice.name!r} not found in provided tools")
    if isinstance(choice, ToolChoice | AnyChoice) and isinstance(prompt.thinking, ThinkingEnabled):
        raise InvalidRequestError("tool_choice: Thinking may not be enabled when tool_choice forces tool use.")


def _check_no_sampling(params: Params) -> None:
    for key in sorted(SAMPLING):
        if params.get(key) is not None:
            raise InvalidRequestError(f"{key}: Not supported since anthropic-version {WITHOUT_SAMPLING}")
