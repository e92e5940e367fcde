"""The shapes of a message's parameters, and of what counting tokens takes."""

from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from claude_pipeline.sandbox.params.shapes import Cacheable, Exotic, Open, Shape
from claude_pipeline.sandbox.params.turn_shapes import Json, Name, TextOnly, Turn

Display = Literal["summarized", "omitted", "updates"]
AtLeast0 = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]

SERVER_TOOLS: Final = {
    "advisor_20260301": "advisor",
    "bash_20241022": "bash",
    "bash_20250124": "bash",
    "browser_toolset_20260801": None,
    "code_execution_20250522": "code_execution",
    "code_execution_20250825": "code_execution",
    "code_execution_20260120": "code_execution",
    "code_execution_20260521": "code_execution",
    "computer_20241022": "computer",
    "computer_20250124": "computer",
    "computer_20251124": "computer",
    "computer_toolset_20260801": None,
    "mcp_toolset": None,
    "memory_20250818": "memory",
    "text_editor_20241022": "str_replace_editor",
    "text_editor_20250124": "str_replace_editor",
    "text_editor_20250429": "str_replace_based_edit_tool",
    "text_editor_20250728": "str_replace_based_edit_tool",
    "tool_search_tool_bm25": "tool_search_tool_bm25",
    "tool_search_tool_bm25_20251119": "tool_search_tool_bm25",
    "tool_search_tool_regex": "tool_search_tool_regex",
    "tool_search_tool_regex_20251119": "tool_search_tool_regex",
    "web_fetch_20250910": "web_fetch",
    "web_fetch_20260209": "web_fetch",
    "web_fetch_20260309": "web_fetch",
    "web_fetch_20260318": "web_fetch",
    "web_search_20250305": "web_search",
    "web_search_20260209": "web_search",
    "web_search_20260318": "web_search",
}


class InputSchema(Open):
    """Describe a tool's input as a JSON schema."""

    type: Literal["object"]
    properties: Json | None = None
    required: list[str] | None = None


class CustomTool(Cacheable, kw_only=True):
    """A tool of the user's own."""

    name: Name
    input_schema: InputSchema
    type: Literal["custom"] | None = None
    description: str | None = None
    strict: bool | None = None
    defer_loading: bool | None = None
    eager_input_streaming: bool | None = None
    input_examples: list[Json] | None = None
    allowed_callers: (
        list[Literal["direct", "code_execution_20250825", "code_execution_20260120", "code_execution_20260521"]] | None
    ) = None


class ServerTool(Exotic, kw_only=True):
    """A tool that the API defines."""

    type: str
    name: str | None = None


Tool = CustomTool | ServerTool


class AutoChoice(Shape, tag="auto"):
    """Leave it to the model whether it calls a tool."""

    disable_parallel_tool_use: bool | None = None


class AnyChoice(Shape, tag="any"):
    """Let the model call some tool."""

    disable_parallel_tool_use: bool | None = None


class ToolChoice(Shape, tag="tool"):
    """Let the model call this tool."""

    name: str
    disable_parallel_tool_use: bool | None = None


class NoneChoice(Shape, tag="none"):
    """Let the model call no tool."""


class ThinkingEnabled(Shape, tag="enabled"):
    """Let the model think up to a budget of tokens."""

    budget_tokens: Annotated[int, Meta(ge=1024)]
    display: Display | None = None
    block_binding: Json | None = None


class ThinkingAdaptive(Shape, tag="adaptive"):
    """Let the model think as much as it sees fit."""

    display: Display | None = None
    block_binding: Json | None = None


class ThinkingDisabled(Shape, tag="disabled"):
    """Let the model answer without thinking."""


class ThinkingBetweenTools(Shape, tag="between_tools"):
    """Let the model think between its tool calls."""


class JsonFormat(Shape):
    """Ask for JSON that fits a schema."""

    type: Literal["json_schema"]
    schema: Json


class OutputConfig(Shape):
    """Say what an answer looks like."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonFormat | None = None
    task_budget: Json | None = None


class Metadata(Shape):
    """Tell who asks."""

    user_id: str | None = None


class Diagnostics(Shape):
    """Compare with an earlier message."""

    previous_message_id: str | None = None


class Skill(Shape):
    """A skill for the container."""

    skill_id: str
    type: Literal["anthropic", "custom"]
    version: str | None = None


class Container(Shape):
    """Where code runs."""

    id: str | None = None
    skills: list[Skill] | None = None


class Prompt(Cacheable, kw_only=True):
    """What counting tokens takes; what needs a beta header is known by its name alone."""

    model: str
    messages: Annotated[list[Turn], Meta(max_length=100_000)]
    system: str | list[TextOnly] | None = None
    # Read one by one: the type of a user's own tool may be left out.
    tools: list[Json] | None = None
    tool_choice: AutoChoice | AnyChoice | ToolChoice | NoneChoice | None = None
    thinking: ThinkingEnabled | ThinkingAdaptive | ThinkingDisabled | ThinkingBetweenTools | None = None
    output_config: OutputConfig | None = None
    output_format: JsonFormat | None = None
    speed: Literal["standard", "fast"] | None = None
    user_profile_id: str | None = None
    workspace_id: str | None = None
    billing_policy: Any = None
    compaction: Any = None
    context_management: Any = None
    mcp_servers: Any = None


class Message(Prompt, kw_only=True):
    """What a message takes."""

    max_tokens: AtLeast0
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: Share | None = None
    top_p: Share | None = None
    top_k: AtLeast0 | None = None
    metadata: Metadata | None = None
    container: str | Container | None = None
    diagnostics: Diagnostics | None = None
    inference_geo: str | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    fallback_credit_token: Any = None
    fallbacks: Any = None
    store: Any = None
    thread: Any = None
