"""The shapes of turns and their content blocks."""

from typing import Annotated, Any, Literal

from msgspec import Meta

from claude_pipeline.sandbox.params.shapes import (
    Base64Image,
    Base64Pdf,
    Cacheable,
    Citation,
    Citations,
    Exotic,
    FileSource,
    Open,
    PlainText,
    Shape,
    Transformations,
    UrlSource,
)

Name = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,128}\Z")]
Id = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]+\Z")]
Json = dict[str, Any]


class Words(Cacheable, kw_only=True):
    """Say something."""

    text: str
    citations: list[Citation] | None = None


class Text(Words, tag="text"):
    """Say something where other blocks may stand too."""


class TextOnly(Words, kw_only=True):
    """Say something where nothing but text may stand; without other tags to tell apart, a tag could be left out."""

    type: Literal["text"]


class Image(Cacheable, tag="image", kw_only=True):
    """Show an image."""

    source: Base64Image | UrlSource | FileSource
    transformations: Transformations | None = None


class ContentSource(Shape, tag="content"):
    """Send a document as blocks of its own."""

    content: str | list[Text | Image]


class Document(Cacheable, tag="document", kw_only=True):
    """Hand over a document."""

    source: Base64Pdf | PlainText | ContentSource | UrlSource | FileSource
    citations: Citations | None = None
    context: str | None = None
    title: str | None = None


class SearchResult(Cacheable, tag="search_result", kw_only=True):
    """Hand over a search result of the user's own."""

    content: list[TextOnly]
    source: str
    title: str
    citations: Citations | None = None


class Thinking(Shape, tag="thinking"):
    """Hand back what the model thought."""

    thinking: str
    signature: str


class RedactedThinking(Shape, tag="redacted_thinking"):
    """Hand back what the model thought and nobody may read."""

    data: str


class Caller(Open):
    """Tell who called a tool."""

    type: str


class ToolUse(Cacheable, tag="tool_use", kw_only=True):
    """Hand back a tool call of the model."""

    id: Id
    name: Name
    input: Json
    caller: Caller | None = None
    toolset_name: str | None = None


class ToolReference(Cacheable, tag="tool_reference", kw_only=True):
    """Name a tool that a search found."""

    tool_name: str


class BrowserState(Exotic, tag="browser_state", kw_only=True):
    """Describe a browser's tabs."""

    tabs: list[Json]


class ToolResult(Cacheable, tag="tool_result", kw_only=True):
    """Answer a tool call of the model."""

    tool_use_id: Id
    content: str | list[Text | Image | SearchResult | Document | ToolReference | BrowserState] | None = None
    is_error: bool | None = None
    toolset_name: str | None = None


class ServerToolUse(Cacheable, tag="server_tool_use", kw_only=True):
    """Hand back a call of a tool that the API runs."""

    id: Id
    name: Literal[
        "advisor",
        "web_search",
        "web_fetch",
        "code_execution",
        "bash_code_execution",
        "text_editor_code_execution",
        "tool_search_tool_regex",
        "tool_search_tool_bm25",
    ]
    input: Json
    caller: Caller | None = None


class ServerToolResult(Exotic, kw_only=True):
    """Hand back what a tool that the API ran came to."""

    tool_use_id: str
    content: Any


class WebSearchResults(ServerToolResult, tag="web_search_tool_result"):
    """What a search of the web found."""


class WebFetchResult(ServerToolResult, tag="web_fetch_tool_result"):
    """A page of the web."""


class CodeExecutionResult(ServerToolResult, tag="code_execution_tool_result"):
    """What code came to."""


class BashResult(ServerToolResult, tag="bash_code_execution_tool_result"):
    """What a shell command came to."""


class TextEditorResult(ServerToolResult, tag="text_editor_code_execution_tool_result"):
    """What an edit came to."""


class ToolSearchResults(ServerToolResult, tag="tool_search_tool_result"):
    """What a search for tools found."""


class AdvisorResult(ServerToolResult, tag="advisor_tool_result"):
    """What an advisor said."""


class McpToolUse(Exotic, tag="mcp_tool_use", kw_only=True):
    """Hand back a call of a tool on an MCP server."""

    id: str


class McpToolResult(Exotic, tag="mcp_tool_result", kw_only=True):
    """Hand back what a tool on an MCP server came to."""

    tool_use_id: str


class McpToolListing(Exotic, tag="mcp_tool_listing"):
    """Hand back the tools of an MCP server."""


class ContainerUpload(Exotic, tag="container_upload", kw_only=True):
    """Put an uploaded file into the container."""

    file_id: str


class Compaction(Exotic, tag="compaction"):
    """Hand back the summary of earlier turns."""


class Fallback(Exotic, tag="fallback"):
    """Hand back the change to another model."""


class ToolAddition(Exotic, tag="tool_addition"):
    """Add a tool from here on."""


class ToolRemoval(Exotic, tag="tool_removal"):
    """Remove a tool from here on."""


Block = (
    (Text | Image | Document | SearchResult | Thinking | RedactedThinking | ToolUse | ToolResult | ServerToolUse)
    | (WebSearchResults | WebFetchResult | CodeExecutionResult | BashResult | TextEditorResult | ToolSearchResults)
    | (AdvisorResult | McpToolUse | McpToolResult | McpToolListing | ContainerUpload | Compaction | Fallback)
    | (ToolAddition | ToolRemoval)
)


class UserTurn(Shape, tag_field="role", tag="user"):
    """What the user says."""

    content: str | list[Block]


class AssistantTurn(Shape, tag_field="role", tag="assistant"):
    """What the model said."""

    content: str | list[Block]


class SystemTurn(Shape, tag_field="role", tag="system"):
    """What holds from here on."""

    # Only the check of the turns knows when it may be left out.
    content: str | list[Text | ToolAddition | ToolRemoval] | None = None
    output_config: Json | None = None
    clear_at: Any = None


Turn = UserTurn | AssistantTurn | SystemTurn
