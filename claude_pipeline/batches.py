"""The edge to the Message Batches API, through the SDK's own client: its credentials, base URL and typed errors.

Requests go out as bytes and results come in as large chunks; what lies between is never a list of dicts.
"""

import ipaddress
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from claude_pipeline.errors import ApiError, CredentialsError, InputError, PipelineError
from claude_pipeline.refusals import (
    NOT_FOUND,
    CreateRefusedError,
    code_of,
    consequence,
    is_passing,
    seconds_of,
    words_of,
)

if TYPE_CHECKING:
    import anthropic
    import httpx2
    from anthropic import Anthropic

PATH = "/v1/messages/batches"
CHUNK_BYTES = 1 << 20
_PAGE = 1000
_FIRST_PAUSES = (0.5, 1.0)
_SHORTEST_SECRET = 16  # a local server takes any word, which may well stand in what it says
_FRAMING = {"content-length", "transfer-encoding"}

# It names a file: what could lead out of a folder is no id.
BatchId = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_-]{1,128}\Z")]


class Batch(msgspec.Struct, frozen=True):
    """A Message Batch, as far as this library looks at it. Times are RFC 3339."""

    id: BatchId
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

    @property
    def has_results(self) -> bool:
        """Whether the batch has ended and its results are still kept."""
        return self.processing_status == "ended" and not self.archived_at


@dataclass(frozen=True, slots=True)
class ResultsBody:
    """A results file on its way. `is_framed` tells whether a body that broke off would be noticed."""

    chunks: Iterator[bytes]
    is_framed: bool


class _Page(msgspec.Struct):
    data: list[Batch]
    has_more: bool = False


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
        secrets = [client.api_key, client.auth_token, *_words_of_headers(client)]
        self._secrets = [secret for secret in secrets if secret and len(secret) >= _SHORTEST_SECRET]
        if not all(
            secret.isascii() and secret.isprintable() for secret in (client.api_key, client.auth_token) if secret
        ):
            raise InputError("The API key holds a line break, or another character that no key has. Set it anew.")
        self._answered: tuple[float, float] | None = None

    def now(self, *, default: float) -> float:
        """Return the API's time in seconds since the epoch, by the date of its last answer, or else the default."""
        if self._answered is None:
            return default
        date, at = self._answered
        return date + time.monotonic() - at

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
        try:
            return _decode(self._get(f"{PATH}/{quote(batch_id, safe='')}"), Batch)
        except ApiError as error:
            if error.status == NOT_FOUND:
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
        headers = {"Content-Type": "application/json", "Content-Length": str(size)}
        try:
            answer = self._call("post", PATH, content=body, follow_redirects=False, headers=headers)
            return msgspec.json.decode(answer.content, type=Batch)
        except ApiError as error:
            raise CreateRefusedError(error, then=consequence(error, complete=is_complete())) from None
        except msgspec.DecodeError as error:
            raise CreateRefusedError(ApiError(f"The API's answer is no batch: {error}."), then="doubtful") from error

    @contextmanager
    def results(self, batch_id: str, results_url: str | None) -> Iterator[ResultsBody]:
        """Open a batch's results as chunks of up to 1 MB.

        Only a `results_url` at the client's own origin is followed: credentials go nowhere else.
        """
        import httpx2  # noqa: PLC0415  loaded with the client

        path = f"{PATH}/{quote(batch_id, safe='')}/results"
        url = results_url if results_url and self._is_own(results_url) else path
        response = self._call("get", url, stream=True)
        try:
            framed = not _FRAMING.isdisjoint(response.headers) or response.http_version.startswith("HTTP/2")
            yield ResultsBody(response.iter_bytes(CHUNK_BYTES), framed)
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
            raise self._refused(error) from None
        except anthropic.APIConnectionError as error:
            cause = _root(error)
            if isinstance(cause, PipelineError):  # raised by what yields the body
                raise cause from None
            words = self._masked(f"{type(cause).__name__}: {cause}".rstrip(": "))
            raise ApiError(f"The API at {self._client.base_url.host} could not be reached ({words}).") from None
        except TypeError as error:
            if "authentication method" in str(error):
                raise CredentialsError from error
            raise
        self._note_date(answer)
        return answer

    def _note_date(self, answer: "httpx2.Response") -> None:
        with suppress(ValueError, OverflowError):
            date = parsedate_to_datetime(answer.headers.get("date", ""))
            self._answered = (date.replace(tzinfo=date.tzinfo or UTC).timestamp(), time.monotonic())

    def _refused(self, error: "anthropic.APIStatusError") -> ApiError:
        message = self._masked(f"The API answered {error.status_code}: {words_of(error)}")
        retry_after = seconds_of(error.response.headers.get("retry-after"))
        return ApiError(message, status=error.status_code, code=code_of(error), retry_after=retry_after)

    def _masked(self, words: str) -> str:
        """Hide credentials: a gateway may repeat the key that it refuses."""
        for secret in self._secrets:
            words = words.replace(secret, "***")
        return words


_T = TypeVar("_T")


def _decode(response: "httpx2.Response", kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(response.content, type=kind)
    except msgspec.DecodeError as error:
        raise ApiError(f"What came from {response.url.host} is not the API's ({error}).") from error


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _words_of_headers(client: "Anthropic") -> list[str]:
    """Return what stands in the custom headers; among them may be credentials."""
    return [word for value in client._custom_headers.values() for word in str(value).split()]  # noqa: SLF001  as below


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
