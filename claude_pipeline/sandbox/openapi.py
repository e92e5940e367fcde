"""What the sandbox serves, as an OpenAPI document."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from types import UnionType
from typing import Any, Final, TypeGuard, Union, get_args, get_origin

import msgspec
from msgspec import Struct

from claude_pipeline.sandbox.endpoints import (
    ANSWERS,
    COMPONENT,
    JSON,
    PATHS,
    TEXT,
    Endpoint,
    Schema,
    closed_object,
    refer,
)
from claude_pipeline.sandbox.errors import STATUS
from claude_pipeline.sandbox.faults import Fault
from claude_pipeline.sandbox.params import VERSIONS
from claude_pipeline.sandbox.params.message_shapes import Message, Prompt

AUTH: Final[Sequence[Schema]] = [{"bearer": []}, {"key": []}]
PARAMS: Final = (Message, Prompt, Fault)


def document() -> dict[str, Any]:
    """Build the document."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "The sandbox of claude-pipeline", "version": version("claude-pipeline")},
        "servers": [{"url": "/"}],
        "paths": {
            path: {method: _operation(method, path, endpoint) for method, endpoint in endpoints.items()}
            for path, endpoints in PATHS.items()
        },
        "components": {
            "schemas": {**_answers(), **_params()},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _operation(method: str, path: str, endpoint: Endpoint) -> dict[str, Any]:
    is_api = path.startswith("/v1/")
    errors = {400, *endpoint.errors, *((401,) if is_api else ())}
    operation = {
        "operationId": f"{method} {path}",
        "summary": endpoint.summary,
        "parameters": [*_parameters(path, endpoint, is_api=is_api)],
        "responses": {
            "200": {"description": "Done", "content": _content(endpoint.answers)},
            **{str(status): _refusal(status) for status in sorted(errors)},
        },
        "security": AUTH if is_api else [],
    }
    if endpoint.body is not None:
        content = {"schema": endpoint.body, **({"example": endpoint.example} if endpoint.example else {})}
        operation["requestBody"] = {"required": True, "content": {JSON: content}}
    return operation


def _parameters(path: str, endpoint: Endpoint, *, is_api: bool) -> Iterator[Schema]:
    for name in ("batch_id", "model_id"):
        if f"{{{name}}}" in path:
            yield {"in": "path", "name": name, "required": True, "schema": TEXT}
    for name, schema in (endpoint.query or {}).items():
        yield {"in": "query", "name": name, "schema": schema}
    if is_api:
        versions = {"type": "string", "enum": [*VERSIONS]}
        yield {"in": "header", "name": "anthropic-version", "required": True, "schema": versions}


def _refusal(status: int) -> Schema:
    description = next(error_type for error_type, usual in STATUS.items() if usual == status)
    return {"description": description, "content": _content({JSON: refer("ErrorResponse")})}


def _content(answers: Mapping[str, Schema]) -> Schema:
    return {media_type: {"schema": schema} for media_type, schema in answers.items()}


def _params() -> Schema:
    """Describe what is sent; `Param` tells it from what is answered under the same name."""
    _, components = msgspec.json.schema_components(PARAMS, ref_template=COMPONENT.format(name="{name}Param"))
    # JSON Schema's regular expressions are JavaScript's.
    schemas = msgspec.json.decode(msgspec.json.encode(components).replace(rb"\\Z", b"$"))
    for name in ("Message", "Prompt"):
        schemas[name]["properties"]["model"]["pattern"] = "^claude-"
    return {f"{name}Param": schema for name, schema in schemas.items()}


def _answers() -> Schema:
    """Describe what is answered: every key is there, and no other."""
    return {struct.__name__: _answer(struct) for answer in ANSWERS for struct in _structs(answer)}


def _answer(struct: type[Struct]) -> Schema:
    config = struct.__struct_config__
    tag = {config.tag_field: {"const": config.tag}} if config.tag_field else {}
    shapes = {field.encode_name: _shape(field.type) for field in msgspec.structs.fields(struct)}
    return {**closed_object(tag | shapes), "description": struct.__doc__}


def _shape(kind: Any) -> Schema:  # noqa: ANN401 - a type, or what stands for one
    if _is_struct(kind):
        return refer(kind.__name__)
    if get_origin(kind) in {Union, UnionType}:
        return {"anyOf": [_shape(option) for option in get_args(kind)]}
    if get_origin(kind) is Sequence:
        return {"type": "array", "items": _shape(get_args(kind)[0])}
    return {"type": "object"} if get_origin(kind) is dict else msgspec.json.schema(kind)


def _structs(kind: Any) -> Iterator[type[Struct]]:  # noqa: ANN401 - as above
    inner = get_args(kind)
    if _is_struct(kind):
        yield kind
        inner = tuple(field.type for field in msgspec.structs.fields(kind))
    for each in inner:
        yield from _structs(each)


def _is_struct(kind: Any) -> TypeGuard[type[Struct]]:  # noqa: ANN401 - as above
    return isinstance(kind, type) and issubclass(kind, Struct)
