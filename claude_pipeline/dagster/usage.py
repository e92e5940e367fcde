"""Token usage of a user's own calls, added up on the page of the asset that makes them."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import dagster as dg
import msgspec

import claude_pipeline as cp
from claude_pipeline.events import EventReader
from claude_pipeline.pricing import LIST_PRICE, PriceList, TokenUsage

if TYPE_CHECKING:
    from anthropic import Anthropic

Context = dg.AssetExecutionContext | dg.OpExecutionContext


class _CacheCreation(msgspec.Struct):
    ephemeral_1h_input_tokens: int = 0


class _Searches(msgspec.Struct):
    web_search_requests: int | None = 0


class _Usage(msgspec.Struct):
    input_tokens: int | None = 0
    output_tokens: int | None = 0
    cache_read_input_tokens: int | None = 0
    cache_creation_input_tokens: int | None = 0
    cache_creation: _CacheCreation | None = None
    server_tool_use: _Searches | None = None


class _Message(msgspec.Struct):
    model: str
    usage: _Usage


class _Event(msgspec.Struct):
    type: str
    message: _Message | None = None
    usage: _Usage | None = None


def metered(client: "Anthropic", context: Context, asset_key: dg.AssetKey | None) -> "Anthropic":
    """Let a client's answers be counted in the metadata of an asset, or of an op's output.

    Raises:
        InputError: The step makes several assets, and nobody says which one the calls are for.
    """
    if asset_key is None and isinstance(context, dg.AssetExecutionContext) and len(context.selected_asset_keys) > 1:
        names = ", ".join(sorted(key.to_user_string() for key in context.selected_asset_keys))
        raise cp.InputError(f"This step makes several assets ({names}). Pass asset_key= to say whose calls these are.")
    meters = _meters.setdefault(context, {})
    return client.with_middleware(meters.setdefault(asset_key, Meter(_teller(context, asset_key))))


def _teller(context: Context, asset_key: dg.AssetKey | None) -> Callable[[dict[str, Any]], None]:
    if asset_key is not None and isinstance(context, dg.AssetExecutionContext):
        return lambda metadata: context.add_asset_metadata(metadata, asset_key=asset_key)
    return context.add_output_metadata


class Meter:
    """Counts answers to messages, whole or streamed; a middleware of the SDK's client.

    One meter serves all clients of a step, so that nothing is counted twice.
    """

    def __init__(self, tell: Callable[[dict[str, Any]], None]) -> None:
        self._tell = tell
        self._lock = Lock()
        self._calls = 0
        self._usages: dict[str, TokenUsage] = {}
        self._cost_usd: float | None = 0.0
        self._prices = PriceList(datetime.now(UTC), share=LIST_PRICE)

    def __call__(self, request: Any, call_next: Callable[[Any], Any]) -> Any:  # noqa: ANN401  the SDK's own types
        """Pass a call on, and count what was answered."""
        response = call_next(request)
        answer = response.http_response
        if answer.is_success and answer.request.url.path.endswith("/v1/messages"):
            if answer.headers.get("content-type", "").startswith("text/event-stream"):
                answer.iter_bytes = self._teed(answer.iter_bytes)
            else:
                message = msgspec.json.decode(answer.read(), type=_Message)
                self._add(message.model, message.usage)
        return response

    def _teed(self, iter_bytes: Callable[..., Iterator[bytes]]) -> Callable[..., Iterator[bytes]]:
        def chunks(*arguments: Any, **options: Any) -> Iterator[bytes]:  # noqa: ANN401  as it is called
            reader = _StreamReader()
            try:
                for chunk in iter_bytes(*arguments, **options):
                    reader.feed(chunk)
                    yield chunk
            finally:
                if reader.message:
                    self._add(reader.message.model, reader.message.usage)

        return chunks

    def _add(self, model: str, used: _Usage) -> None:
        usage = _tokens(used)
        with self._lock:
            self._calls += 1
            self._usages[model] = _sum(self._usages.get(model, TokenUsage()), usage)
            cost = self._prices.usd(model, usage)
            self._cost_usd = None if cost is None or self._cost_usd is None else self._cost_usd + cost
            self._tell(self._metadata())

    def _metadata(self) -> dict[str, Any]:
        total = TokenUsage()
        for usage in self._usages.values():
            total = _sum(total, usage)
        metadata: dict[str, Any] = {"claude/calls": self._calls, "claude/models": ", ".join(self._usages)}
        metadata |= {f"claude/{name}": tokens for name, tokens in _named(total).items()}
        if len(self._usages) > 1:
            for model, usage in self._usages.items():
                metadata |= {f"claude/{model}/{name}": tokens for name, tokens in _named(usage).items()}
        if self._cost_usd is not None:
            metadata["claude/cost_usd"] = float(f"{self._cost_usd:.6g}")
        return metadata


_meters: WeakKeyDictionary[Context, dict[dg.AssetKey | None, Meter]] = WeakKeyDictionary()


class _StreamReader:
    """Reads the usage off the events of a streamed answer: input at its start, all output at its end."""

    def __init__(self) -> None:
        self.message: _Message | None = None
        self._events = EventReader()

    def feed(self, chunk: bytes) -> None:
        for data in self._events.feed(chunk):
            self._take(msgspec.json.decode(data, type=_Event))

    def _take(self, event: _Event) -> None:
        if event.message is not None:
            self.message = event.message
        elif self.message is not None and event.usage is not None:
            self.message.usage.output_tokens = event.usage.output_tokens
            self.message.usage.server_tool_use = event.usage.server_tool_use


def _tokens(usage: _Usage) -> TokenUsage:
    hour = usage.cache_creation.ephemeral_1h_input_tokens if usage.cache_creation else 0
    return TokenUsage(
        input=usage.input_tokens or 0,
        cache_read=usage.cache_read_input_tokens or 0,
        cache_write=(usage.cache_creation_input_tokens or 0) - hour,
        cache_write_1h=hour,
        output=usage.output_tokens or 0,
        web_searches=(usage.server_tool_use.web_search_requests or 0) if usage.server_tool_use else 0,
    )


def _sum(one: TokenUsage, other: TokenUsage) -> TokenUsage:
    return TokenUsage(*(getattr(one, name) + getattr(other, name) for name in TokenUsage.__struct_fields__))


def _named(usage: TokenUsage) -> dict[str, int]:
    return {
        "input_tokens": usage.input,
        "output_tokens": usage.output,
        "cache_read_tokens": usage.cache_read,
        "cache_write_tokens": usage.cached_for_later,
    }
