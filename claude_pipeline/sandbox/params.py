"""Which parameters of a message the API accepts."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from claude_pipeline.sandbox.errors import InvalidRequestError, NotFoundError

Params = Mapping[str, Any]

VERSIONS: Final = ("2023-06-01", "2026-10-21")
WITHOUT_SAMPLING: Final = "2026-10-21"
SAMPLING: Final = frozenset({"temperature", "top_p", "top_k"})
REFUSED_IN_BATCHES: Final = ("speed", "store")
MOST_MAX_TOKENS: Final = 300_000
KNOWN: Final = frozenset(
    {
        *("model", "max_tokens", "messages", "system", "metadata", "stop_sequences", "stream", "thinking"),
        *("tool_choice", "tools", "output_config", "output_format", "service_tier", "container", "store"),
        *("cache_control", "diagnostics", "inference_geo", "speed", "mcp_servers", "context_management"),
        *("billing_policy", "compaction", "fallback_credit_token", "fallbacks", "thread", "user_profile_id"),
        *SAMPLING,
    }
)


def check_message(params: object, *, version: str) -> Params:
    """Return the parameters of a message, or raise an `ApiError` that names the wrong one."""
    checked = check_prompt(params, version=version)
    _check_max_tokens(checked)
    if not isinstance(checked.get("stream", False), bool):
        raise InvalidRequestError("stream: Input should be a valid boolean")
    return checked


def check_in_batch(params: object, *, version: str) -> Params:
    """Check what `check_message` checks, and that nothing asks for what a batch cannot do."""
    checked = check_message(params, version=version)
    if checked.get("stream"):
        raise InvalidRequestError("stream: Streaming is not supported in a batch")
    for key in REFUSED_IN_BATCHES:
        if checked.get(key) is not None:
            raise InvalidRequestError(f"{key}: Not supported in a batch")
    return checked


def check_prompt(params: object, *, version: str) -> Params:
    """Check what counting tokens needs: model, messages, system."""
    if not isinstance(params, dict):
        raise InvalidRequestError("params: Input should be an object")
    if not KNOWN.issuperset(params):
        raise InvalidRequestError(f"{min(params.keys() - KNOWN)}: Extra inputs are not permitted")
    _check_model(params)
    _check_messages(_required(params, "messages"))
    if params.get("system"):
        _check_content("system", params["system"])
    if not SAMPLING.isdisjoint(params):
        _check_sampling(params, version=version)
    if params.get("stop_sequences"):
        _check_stop_sequences(params["stop_sequences"])
    return params


def _required(params: Params, key: str) -> Any:  # noqa: ANN401 - whatever the client sent
    if key not in params:
        raise InvalidRequestError(f"{key}: Field required")
    return params[key]


def _check_model(params: Params) -> None:
    model = _required(params, "model")
    if not isinstance(model, str):
        raise InvalidRequestError("model: Input should be a valid string")
    if not model.startswith("claude-"):
        raise NotFoundError(f"model: {model}")


def _check_max_tokens(params: Params) -> None:
    max_tokens = _required(params, "max_tokens")
    if not isinstance(max_tokens, int) or isinstance(max_tokens, bool):
        raise InvalidRequestError("max_tokens: Input should be a valid integer")
    if max_tokens < 1:
        raise InvalidRequestError("max_tokens: must be greater than or equal to 1")
    if max_tokens > MOST_MAX_TOKENS:
        raise InvalidRequestError(f"max_tokens: {max_tokens} > {MOST_MAX_TOKENS}, the most that a model allows")


def _check_messages(messages: object) -> None:
    if not isinstance(messages, list):
        raise InvalidRequestError("messages: Input should be a valid array")
    if not messages:
        raise InvalidRequestError("messages: at least one message is required")
    for index, message in enumerate(messages):
        _check_turn(f"messages.{index}", message)
    if messages[0]["role"] != "user":
        raise InvalidRequestError('messages: first message must use the "user" role')


def _check_turn(path: str, message: object) -> None:
    if not isinstance(message, dict):
        raise InvalidRequestError(f"{path}: Input should be an object")
    if message.get("role") not in ("user", "assistant"):
        raise InvalidRequestError(f"{path}.role: Input should be 'user' or 'assistant'")
    if not message.get("content"):
        raise InvalidRequestError(f"{path}.content: text content blocks must be non-empty")
    _check_content(f"{path}.content", message["content"])


def _check_content(path: str, content: object) -> None:
    if isinstance(content, str):
        return _check_text(path, content)
    if not isinstance(content, list):
        raise InvalidRequestError(f"{path}: Input should be a string or an array of content blocks")
    for index, block in enumerate(content):
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise InvalidRequestError(f"{path}.{index}.type: Field required")
        if block["type"] == "text":
            _check_text(f"{path}.{index}.text", block.get("text"))
    return None


def _check_text(path: str, text: object) -> None:
    if not isinstance(text, str):
        raise InvalidRequestError(f"{path}: Input should be a valid string")
    if not text or text.isspace():
        raise InvalidRequestError(f"{path}: text content blocks must contain non-whitespace text")


def _check_sampling(params: Params, *, version: str) -> None:
    for key in sorted(SAMPLING):
        value = params.get(key)
        if value is None:
            continue
        if version == WITHOUT_SAMPLING:
            raise InvalidRequestError(f"{key}: Not supported since anthropic-version {WITHOUT_SAMPLING}")
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise InvalidRequestError(f"{key}: Input should be a valid number")


def _check_stop_sequences(stop_sequences: Sequence[object]) -> None:
    if not isinstance(stop_sequences, list) or not all(isinstance(stop, str) for stop in stop_sequences):
        raise InvalidRequestError("stop_sequences: Input should be an array of strings")
    if not all(stop.strip() for stop in stop_sequences if isinstance(stop, str)):
        raise InvalidRequestError("stop_sequences: each stop sequence must contain non-whitespace")
