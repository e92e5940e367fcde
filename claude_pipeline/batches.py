"""The edge to the Message Batches API, through the SDK's own client: its credentials, base URL and typed errors.

Requests go out as bytes and results come in as large chunks; what lies between is never a list of dicts.
"""

import ipaddress
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from claude_pipeline.errors import ApiError, CredentialsError, InputError, PipelineError

if TYPE_CHECKING:
    import httpx2
    from anthropic import Anthropic

PATH = "/v1/messages/batches"
CHUNK_BYTES = 1 << 20
_PAGE = 1000
_FIRST_PAUSES = (0.5, 1.0)


class Batch(msgspec.Struct, frozen=True):
    """A Message Batch, as far as this library looks at it. Times are RFC 3339."""

    id: str
    processing_status: Literal["in_progress", "canceling", "ended"]
    request_counts: dict[str, int]
    created_at: datetime
    ended_at: datetime | None = None
    cancel_initiated_at: datetime | None = None
    archived_at: datetime | None = None
    results_url: str | None = None

    @property
    def requests(self) -> int:
        """How many requests the batch holds."""
        return sum(self.request_counts.values())


class _Page(msgspec.Struct):
    data: list[Batch]
    has_more: bool = False


class CreateRefusedError(ApiError):
    """A create call did not become a batch, or nobody can tell.

    Attributes:
        then: `later` (nothing was created, it may pass), `halve` (too large), `blocked` (the user must act), or
            `doubtful` (a batch may exist).
        retry_after: Seconds that the API asks to wait, if it does.
    """

    def __init__(self, message: str, *, then: Literal["later", "halve", "blocked", "doubtful"]) -> None:
        super().__init__(message)
        self.then = then
        self.status: int | None = None
        self.retry_after: float | None = None


def make_client(base_url: str | None = None, *, api_key: str | None = None) -> "Anthropic":
    """Build the SDK's client; a server on this machine needs no key.

    Raises:
        CredentialsError: There are no credentials.
    """
    from anthropic import Anthropic  # noqa: PLC0415  takes longer than everything else together

    client = Anthropic(base_url=base_url, api_key=api_key)
    if client.api_key or client.auth_token or client.credentials or "authorization" in _custom_headers(client):
        return client
    if _is_loopback(client.base_url.host):
        return Anthropic(base_url=base_url, api_key="sandbox")
    raise CredentialsError


class BatchesApi:
    """The calls that a job needs, each made once: what failed and may pass is due again at the next advance.

    The SDK's own retries obey `retry-after` without a bound, which would hold up a sensor for hours.
    """

    def __init__(self, client: "Anthropic") -> None:
        for name in ("Bedrock", "Vertex", "Foundry"):
            if name in type(client).__name__:
                raise InputError(f"{type(client).__name__} has no Message Batches. Use anthropic.Anthropic().")
        self._client = client

    def account(self) -> str:
        """Ask who answers and pays, with one free call.

        It is the workspace, else the organization, else the origin of the base URL.
        """
        headers = self._first_answer().headers
        named = headers.get("anthropic-workspace-id") or headers.get("anthropic-organization-id")
        url = urlsplit(str(self._client.base_url))
        return str(named or f"{url.scheme}://{url.hostname}:{url.port or {'http': 80, 'https': 443}[url.scheme]}")

    def _first_answer(self) -> "httpx2.Response":
        """Ask thrice: nobody has anything yet that a next advance could go on with."""
        for seconds in _FIRST_PAUSES:
            try:
                return self._get(PATH, params={"limit": 1})
            except ApiError as error:
                if not is_passing(error):
                    raise
                time.sleep(seconds)
        return self._get(PATH, params={"limit": 1})

    def newest_batch_id(self) -> str | None:
        """Return the id of the newest batch of the workspace."""
        page = _decode(self._get(PATH, params={"limit": 1}), _Page)
        return page.data[0].id if page.data else None

    def newest_first(self, *, at_least: int = _PAGE) -> Iterator[Batch]:
        """Yield the workspace's batches; the first call asks for at least so many, up to 1,000."""
        params: dict[str, Any] = {"limit": max(20, min(_PAGE, at_least))}
        while True:
            page = _decode(self._get(PATH, params=params), _Page)
            yield from page.data
            if not page.has_more or not page.data:
                return
            params = {"limit": _PAGE, "after_id": page.data[-1].id}

    def retrieve(self, batch_id: str) -> Batch | None:
        """Return a batch, or None if the API knows none by that id."""
        from anthropic import NotFoundError  # noqa: PLC0415  loaded with the client

        try:
            return _decode(self._get(f"{PATH}/{quote(batch_id, safe='')}"), Batch)
        except ApiError as error:
            if isinstance(error.__cause__, NotFoundError):
                return None
            raise

    def cancel(self, batch_id: str) -> Batch:
        """Ask the API to cancel a batch; requests already answered stay answered, and billed."""
        return _decode(self._call("post", f"{PATH}/{quote(batch_id, safe='')}/cancel"), Batch)

    def create(self, body: Iterable[bytes], *, size: int, is_complete: Callable[[], bool]) -> Batch:
        """Send a body of `size` bytes as a new batch, once.

        `is_complete` tells, when the call has failed, whether the whole body may have left.

        Raises:
            CreateRefusedError: There is no batch, or nobody can tell.
        """
        import anthropic  # noqa: PLC0415  loaded with the client

        headers = {"Content-Type": "application/json", "Content-Length": str(size)}
        try:
            answer = self._call("post", PATH, content=body, follow_redirects=False, headers=headers)
            return msgspec.json.decode(answer.content, type=Batch)
        except ApiError as error:
            if isinstance(error.__cause__, anthropic.APIStatusError):
                raise _refusal(error.__cause__, complete=is_complete()) from error
            then: Literal["doubtful", "later"] = "doubtful" if is_complete() else "later"
            raise CreateRefusedError(str(error), then=then) from error
        except msgspec.DecodeError as error:
            raise CreateRefusedError(f"The API's answer is no batch: {error}.", then="doubtful") from error

    @contextmanager
    def results(self, batch_id: str, results_url: str | None) -> Iterator[Iterator[bytes]]:
        """Open a batch's results as chunks of up to 1 MB.

        Only a `results_url` at the client's own origin is followed: credentials go nowhere else.
        """
        import httpx2  # noqa: PLC0415  loaded with the client

        path = f"{PATH}/{quote(batch_id, safe='')}/results"
        url = results_url if results_url and self._is_own(results_url) else path
        response = self._call("get", url, stream=True)
        try:
            yield response.iter_bytes(CHUNK_BYTES)
        except httpx2.HTTPError as error:
            raise ApiError(f"The results of {batch_id} broke off ({type(error).__name__}: {error}).") from error
        finally:
            response.close()

    def _is_own(self, url: str) -> bool:
        parts, own = urlsplit(url), urlsplit(str(self._client.base_url))
        return not parts.netloc or (parts.scheme, parts.netloc) == (own.scheme, own.netloc)

    def _get(self, path: str, *, params: dict[str, Any] | None = None) -> "httpx2.Response":
        return self._call("get", path, params=params or {})

    def _call(
        self,
        method: Literal["get", "post"],
        path: str,
        *,
        content: Iterable[bytes] | None = None,
        stream: bool = False,
        **options: Any,  # noqa: ANN401  the SDK's own request options
    ) -> "httpx2.Response":
        import anthropic  # noqa: PLC0415  loaded with the client
        import httpx2  # noqa: PLC0415

        body: dict[str, Any] = {} if method == "get" else {"content": content}
        try:
            call: Any = getattr(self._client, method)
            answer: httpx2.Response = call(
                path, cast_to=httpx2.Response, options=options | {"max_retries": 0}, stream=stream, **body
            )
        except anthropic.APIStatusError as error:
            raise ApiError(f"The API answered {error.status_code}: {_words(error)}") from error
        except anthropic.APIConnectionError as error:
            cause = _root(error)
            if isinstance(cause, PipelineError):  # raised by what yields the body
                raise cause from None
            words = f"{type(cause).__name__}: {cause}".rstrip(": ")
            raise ApiError(f"The API at {self._client.base_url.host} could not be reached ({words}).") from error
        except TypeError as error:
            if "authentication method" in str(error):
                raise CredentialsError from error
            raise
        return answer


_T = TypeVar("_T")


def _decode(response: "httpx2.Response", kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(response.content, type=kind)
    except msgspec.DecodeError as error:
        raise ApiError(f"What came from {response.url.host} is not the API's ({error}).") from error


def is_passing(error: ApiError) -> bool:
    """Tell whether an error of a call may be gone at the next one."""
    status = getattr(error.__cause__, "status_code", None)
    return status is None or status in {408, 429} or status >= 500  # noqa: PLR2004  HTTP's server errors


def _refusal(error: Any, *, complete: bool) -> CreateRefusedError:  # noqa: ANN401  an anthropic.APIStatusError
    refused = CreateRefusedError(f"The API answered {error.status_code}: {_words(error)}", then=_then(error, complete))
    refused.status = error.status_code
    refused.retry_after = _seconds(error.response.headers.get("retry-after"))
    return refused


def _then(error: Any, complete: bool) -> Literal["later", "halve", "blocked", "doubtful"]:  # noqa: ANN401, FBT001
    status: int = error.status_code
    if status == 413:  # noqa: PLR2004
        return "halve"
    if status in {429, 529}:
        return "blocked" if "enforced_spend_limit_reached" in str(error.body) else "later"
    if status in {408, 499} or status >= 500:  # noqa: PLR2004
        return "doubtful" if complete else "later"
    return "blocked"


def _words(error: Any) -> str:  # noqa: ANN401  an anthropic.APIStatusError
    body = error.body if isinstance(error.body, dict) else {}
    detail = body.get("error", {})
    message = detail.get("message") if isinstance(detail, dict) else None
    request_id = f" (request {error.request_id})" if error.request_id else ""
    return f"{message or error.message}{request_id}"


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _seconds(header: str | None) -> float | None:
    try:
        return max(0.0, float(header)) if header is not None else None
    except ValueError:
        return None


def _custom_headers(client: "Anthropic") -> set[str]:
    return {name.lower() for name in client._custom_headers}  # noqa: SLF001  ANTHROPIC_CUSTOM_HEADERS, see the SDK


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def body_chunks(file: BinaryIO, *, before_last: Callable[[], None]) -> Iterator[bytes]:
    """Read a spooled body in chunks, calling `before_last` just before the last one is handed out."""
    file.seek(0)
    chunk = file.read(CHUNK_BYTES)
    while following := file.read(CHUNK_BYTES):
        yield chunk
        chunk = following
    before_last()
    yield chunk
