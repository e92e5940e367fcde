"""The endpoints of the sandbox: what each takes, and what it answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from msgspec import Struct

from claude_pipeline.sandbox.faults import SECTIONS
from claude_pipeline.sandbox.pages import MOST_ITEMS, USUAL_LIMIT
from claude_pipeline.sandbox.requests import LEGAL_ID, MOST_REQUESTS
from claude_pipeline.sandbox.wire import Message, MessageBatch, ResultLine

Schema = Mapping[str, Any]

BATCHES: Final = "/v1/messages/batches"
JSON: Final = "application/json"
LINES: Final = "application/x-jsonl"
EVENTS: Final = "text/event-stream"
COMPONENT: Final = "#/components/schemas/{name}"
TEXT: Final[Schema] = {"type": "string"}
CURSOR: Final[Schema] = {"type": ["string", "null"]}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
SECONDS: Final[Schema] = {"type": "number", "minimum": 0}


class DeletedMessageBatch(Struct):
    """A batch that is no more."""

    id: str
    type: Literal["message_batch_deleted"]


class MessageTokensCount(Struct):
    """The tokens of a prompt."""

    input_tokens: int


class ModelInfo(Struct):
    """A model."""

    id: str
    type: Literal["model"]
    display_name: str
    created_at: str
    lifecycle: Literal["active", "deprecated", "retired"]
    line: str | None
    capabilities: dict[str, Any] | None
    deprecated_at: str | None
    retires_at: str | None
    max_input_tokens: int | None
    max_tokens: int | None


class ErrorResponse(Struct):
    """What is answered with every status from 400 up."""

    type: Literal["error"]
    error: dict[str, Any]
    request_id: str


ANSWERS: Final = (MessageBatch, DeletedMessageBatch, ResultLine, Message, MessageTokensCount, ModelInfo, ErrorResponse)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A method of a path: what it takes, and what it answers by media type; `example` is a body."""

    summary: str
    answers: Mapping[str, Schema]
    errors: Sequence[int] = ()
    query: Mapping[str, Schema] | None = None
    body: Schema | None = None
    example: Mapping[str, Any] | None = None


def refer(name: str) -> Schema:
    """Point to a component of the document."""
    return {"$ref": COMPONENT.format(name=name)}


def closed_object(properties: Mapping[str, Schema]) -> Schema:
    """Describe an object that has these keys and no other."""
    return {
        "type": "object",
        "properties": properties,
        "required": sorted(properties),
        "additionalProperties": False,
    }


def _page(name: str) -> Mapping[str, Schema]:
    data, has_more = {"type": "array", "items": refer(name)}, {"type": "boolean"}
    return {JSON: closed_object({"data": data, "has_more": has_more, "first_id": CURSOR, "last_id": CURSOR})}


PROMPT: Final = {"model": "claude-haiku-4-5", "messages": [{"role": "user", "content": "Hello, world."}]}
MESSAGE: Final = {**PROMPT, "max_tokens": 64}
CUSTOM_ID: Final[Schema] = {"type": "string", "pattern": f"^{LEGAL_ID.pattern}$"}
PARAMS: Final[Schema] = {"description": "A MessageParam, checked when its turn comes."}
REQUEST: Final = closed_object({"custom_id": CUSTOM_ID, "params": PARAMS})
REQUESTS: Final[Schema] = {"type": "array", "items": REQUEST, "minItems": 1, "maxItems": MOST_REQUESTS}
PAGING: Final[Mapping[str, Schema]] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": MOST_ITEMS, "default": USUAL_LIMIT},
    "after_id": TEXT,
    "before_id": TEXT,
}
FAULTS: Final[Schema] = {
    "type": "object",
    "properties": {
        "seed": {"type": "integer"},
        **{section: {"type": "array", "items": refer("FaultParam")} for section in SECTIONS},
    },
    "additionalProperties": False,
}
CLOCK: Final[Schema] = {
    "type": "object",
    "properties": {"set": {"type": "string", "format": "date-time"}, "advance": SECONDS, "speed": SECONDS},
    "additionalProperties": False,
}
NOW: Final = {JSON: closed_object({"now": TEXT})}
PLAN: Final = {JSON: {"type": "object"}}
BATCH: Final = {JSON: refer("MessageBatch")}

PATHS: Final[Mapping[str, Mapping[str, Endpoint]]] = {
    BATCHES: {
        "post": Endpoint(
            summary="Create a batch",
            answers=BATCH,
            errors=(413, 429),
            body=closed_object({"requests": REQUESTS}),
            example={"requests": [{"custom_id": "my-first-request", "params": MESSAGE}]},
        ),
        "get": Endpoint(summary="List batches, newest first", answers=_page("MessageBatch"), query=PAGING),
    },
    f"{BATCHES}/{{batch_id}}": {
        "get": Endpoint(summary="Retrieve a batch", answers=BATCH, errors=(404,)),
        "delete": Endpoint(
            summary="Delete a batch that has ended", answers={JSON: refer("DeletedMessageBatch")}, errors=(404,)
        ),
    },
    f"{BATCHES}/{{batch_id}}/cancel": {
        "post": Endpoint(summary="Cancel a batch", answers=BATCH, errors=(404,)),
    },
    f"{BATCHES}/{{batch_id}}/results": {
        "get": Endpoint(summary="Read the results, a ResultLine each", answers={LINES: TEXT}, errors=(404,)),
    },
    "/v1/messages": {
        "post": Endpoint(
            summary="Create a message, streamed as server-sent events on request",
            answers={JSON: refer("Message"), EVENTS: TEXT},
            errors=(404, 413, 429),
            body=refer("MessageParam"),
            example=MESSAGE,
        ),
    },
    "/v1/messages/count_tokens": {
        "post": Endpoint(
            summary="Count the tokens of a prompt",
            answers={JSON: refer("MessageTokensCount")},
            errors=(404, 413),
            body=refer("PromptParam"),
            example=PROMPT,
        ),
    },
    "/v1/models": {"get": Endpoint(summary="List models", answers=_page("ModelInfo"), query=PAGING)},
    "/v1/models/{model_id}": {
        "get": Endpoint(summary="Retrieve a model", answers={JSON: refer("ModelInfo")}, errors=(404,)),
    },
    "/_sandbox/usage": {
        "get": Endpoint(
            summary="Show what was accepted and billed",
            answers={JSON: {"type": "object", "additionalProperties": COUNT}},
        ),
    },
    "/_sandbox/requests": {
        "get": Endpoint(
            summary="Read the requests of one batch or of all",
            answers={LINES: TEXT},
            errors=(404,),
            query={"batch_id": TEXT},
        ),
    },
    "/_sandbox/log": {
        "get": Endpoint(summary="Read the log, an entry for each request to the API", answers={LINES: TEXT}),
    },
    "/_sandbox/clock": {
        "get": Endpoint(summary="Show the clock", answers=NOW),
        "post": Endpoint(
            summary="Set the clock, step it forward by seconds, or let it run at another speed",
            answers=NOW,
            errors=(413,),
            body=CLOCK,
        ),
    },
    "/_sandbox/faults": {
        "get": Endpoint(summary="Show the faults, and how often each was met", answers=PLAN),
        "post": Endpoint(summary="Replace the faults", answers=PLAN, errors=(413,), body=FAULTS),
        "delete": Endpoint(summary="Have no more faults", answers=PLAN),
    },
    "/_sandbox/identity": {
        "get": Endpoint(summary="Say which sandbox this is", answers={JSON: closed_object({"identity": TEXT})}),
    },
    "/_sandbox/openapi.json": {
        "get": Endpoint(summary="Describe all this", answers={JSON: {"type": "object"}}),
    },
}
