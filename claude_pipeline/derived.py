"""Columns that are made of answers when they are handed out: typed output, the tool that was called, all blocks.

The store holds nothing of it, so the same answers serve jobs that want other columns.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from claude_pipeline.arrays import bool_array, make_array
from claude_pipeline.errors import InputError
from claude_pipeline.schema_faults import Schema
from claude_pipeline.schemas import read_schema
from claude_pipeline.typed import TypedColumns

Content = Literal["json"]

LINE: Final = "line"

_JSON: Final = pa.large_string()
_SERVER_TOOLS: Final = (
    *("web_search_", "web_fetch_", "code_execution_"),
    *("tool_search_tool_", "advisor_", "mcp_toolset"),
)


class AnswerOptions(msgspec.Struct, frozen=True):
    """Which columns a job's answers come in, beside those of every job.

    Attributes:
        output_schema: Its properties become columns; a schema that was read.
        tools: Whether an answer may call a tool: `tool_name` and `tool_input`.
        tool_schema: What types `tool_input`, a schema that was read; without it that is JSON text.
        content: Whether all blocks come as JSON text.
    """

    output_schema: Schema | None = None
    tools: bool = False
    tool_schema: Schema | None = None
    content: bool = False


PLAIN: Final = AnswerOptions()


def answer_options(
    *,
    params: Mapping[str, object] | None = None,
    params_columns: Mapping[str, str] | None = None,
    output_schema: Schema | None = None,
    content: Content | None = None,
) -> AnswerOptions:
    """Choose the columns of answers by what is asked.

    Args:
        params: The parameters that all rows share.
        params_columns: Those that a row brings along.
        output_schema: A schema that was read.
        content: "json" for a column of all blocks.

    Raises:
        InputError: `content` is something else.
    """
    if content not in (None, "json"):
        raise InputError(f"content is {content!r}. Write content='json' for all blocks as JSON text, or leave it out.")
    tools = [tool for tool in _tools(params or {}) if not str(tool.get("type")).startswith(_SERVER_TOOLS)]
    of_rows = "tools" in (params_columns or {})
    tool_schema = _tool_schema(tools[0]) if len(tools) == 1 and not of_rows else None
    return AnswerOptions(output_schema, bool(tools) or of_rows, tool_schema, content == "json")


def _tools(params: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    tools = params.get("tools")
    yield from (tool for tool in (tools if isinstance(tools, Sequence) else ()) if isinstance(tool, Mapping))


def _tool_schema(tool: Mapping[str, object]) -> Schema | None:
    """Read the schema of a tool's input; None if it has none, or says too little or too much for columns."""
    if tool.get("input_schema") is None:
        return None
    try:
        return read_schema(tool["input_schema"])
    except InputError:
        return None


class _Message(msgspec.Struct, gc=False):
    content: msgspec.Raw


class _Result(msgspec.Struct, gc=False):
    message: _Message | None = None


class _Line(msgspec.Struct, gc=False):
    result: _Result


class _Block(msgspec.Struct, gc=False):
    type: str
    name: Any = None
    input: msgspec.Raw = msgspec.Raw(b"null")


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_blocks = msgspec.json.Decoder(list[_Block]).decode
_encode = msgspec.json.Encoder().encode


class Columns(NamedTuple):
    """Columns made of answers.

    Attributes:
        arrays: One a field of `Derived.fields`.
        errors: For each answer the first mismatch with the schema that it was asked to fit, or None; may be empty.
    """

    arrays: list[pa.Array]
    errors: list[str | None]


class Derived:
    """Makes columns of answers.

    Attributes:
        fields: The columns: those of the output schema, `tool_name` and `tool_input`, `content`.
        needs_lines: Whether answers must bring along the lines that they came in.
    """

    def __init__(self, options: AnswerOptions) -> None:
        self._output = TypedColumns(options.output_schema) if options.output_schema else None
        self._tools = _Tools(options.tool_schema) if options.tools else None
        self._content = options.content
        self.needs_lines = options.tools or options.content
        self.fields: list[pa.Field] = [
            *(self._output.fields if self._output else ()),
            *(self._tools.fields if self._tools else ()),
            *([pa.field("content", _JSON)] if options.content else ()),
        ]

    def derive(self, answers: pa.RecordBatch) -> Columns:
        """Make the columns of a batch of answers, which has the column `line` where that is needed."""
        blocks = _blocks(answers.column(LINE)) if self.needs_lines else []
        made = []
        if self._output:
            made.append(_output_columns(self._output, answers))
        if self._tools:
            made.append(self._tools.derive(blocks))
        arrays = [array for columns in made for array in columns.arrays]
        if self._content:
            arrays.append(_content(blocks, answers.column("response")))
        errors = [next(filter(None, row), None) for row in zip(*(columns.errors for columns in made), strict=True)]
        return Columns(arrays, errors)


def mark_invalid(answers: pa.RecordBatch, errors: Sequence[str | None]) -> pa.RecordBatch:
    """Say of answers that do not fit what is wrong; they stay succeeded, for they are paid."""
    if not any(errors):
        return answers
    types = ["invalid_output" if error else None for error in errors]
    for name, values in (("error_type", types), ("error_message", errors)):
        at = answers.schema.get_field_index(name)
        known = answers.column(at).to_pylist()
        said = [" ".join(filter(None, pair)) or None for pair in zip(values, known, strict=True)]
        answers = answers.set_column(at, answers.schema.field(at), make_array(said, pa.string()))
    return answers


def _output_columns(typed: TypedColumns, answers: pa.RecordBatch) -> Columns:
    response = answers.column("response").to_pylist()
    columns, errors = typed.decode(response)
    if None in response or any(errors):
        errors = [*_output_errors(answers, response, errors)]
    return Columns(columns, errors)


def _output_errors(
    answers: pa.RecordBatch, response: list[str | None], errors: list[str | None]
) -> Iterator[str | None]:
    """Complain also of answers without a text, such as refusals, but not of those that call a tool first."""
    said = (answers.column(name).to_pylist() for name in ("result_type", "stop_reason"))
    for text, error, result_type, stop_reason in zip(response, errors, *said, strict=True):
        if text is None and result_type == "succeeded" and stop_reason != "tool_use":
            yield f"$: expected JSON, got no text (stop_reason {stop_reason})"
        else:
            yield None if stop_reason == "tool_use" else error


class _Tools:
    """Makes the columns of the first tool that an answer calls."""

    def __init__(self, schema: Schema | None) -> None:
        self._typed = TypedColumns(schema) if schema else None
        kind = pa.struct(self._typed.fields) if self._typed else _JSON
        self.fields = [pa.field("tool_name", pa.string()), pa.field("tool_input", kind)]

    def derive(self, blocks: Sequence[msgspec.Raw | None]) -> Columns:
        calls = [_first_call(content) if content is not None else None for content in blocks]
        names = [call.name if call and isinstance(call.name, str) else None for call in calls]
        inputs = [bytes(call.input) if call else None for call in calls]
        column, errors = self._inputs(inputs)
        return Columns([make_array(names, pa.string()), column], errors)

    def _inputs(self, inputs: list[bytes | None]) -> tuple[pa.Array, list[str | None]]:
        if self._typed is None:
            return make_array([_text(value) for value in inputs], _JSON), [None] * len(inputs)
        columns, errors = self._typed.decode(inputs)
        errors = [error and f"tool_input{error.removeprefix('$')}" for error in errors]
        absent = [value is None or error is not None for value, error in zip(inputs, errors, strict=True)]
        return pa.StructArray.from_arrays(
            columns, fields=self._typed.fields, mask=bool_array(np.array(absent, dtype=bool))
        ), errors


def _blocks(lines: pa.Array) -> list[msgspec.Raw | None]:
    """Read the blocks of each line as they came; None where there is no line, or no message in it."""
    results = (_decode_line(line).result if line is not None else None for line in lines.to_pylist())
    return [result.message.content if result and result.message else None for result in results]


def _first_call(content: msgspec.Raw) -> _Block | None:
    return next((block for block in _decode_blocks(content) if block.type == "tool_use"), None)


def _content(blocks: Sequence[msgspec.Raw | None], response: pa.Array) -> pa.Array:
    """Write the blocks as JSON text; an answer that has kept no line is one plain block of text."""
    texts = zip(blocks, response.to_pylist(), strict=True)
    return make_array([_text(content) if content is not None else _plain(text) for content, text in texts], _JSON)


def _plain(text: str | None) -> str | None:
    return None if text is None else _encode([{"type": "text", "text": text}]).decode()


def _text(json: bytes | msgspec.Raw | None) -> str | None:
    return None if json is None else str(json, "utf-8", "replace")
