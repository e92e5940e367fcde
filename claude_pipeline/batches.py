"""The edge to the Message Batches API, through the SDK's own client: its credentials, base URL and typed errors.

Requests go out as bytes and results come in as large chunks; what lies between is never a list of dicts.
"""

import ipaddress
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeVar
from urllib.parse import quote, urlsplit

from claude_pipeline.errors import ApiError, CredentialsError, InputError, PipelineError
from claude_pipeline.parameters import check_client
from claude_pipeline.refusals import (
    NOT_FOUND,
    CreateRefusedError,
    code_of,
    consequence,
    is_passing,
    seconds_of,
    words_of,
)
from claude_pipeline.wire import Batch, Page, TokenCount, decode, encode

if TYPE_CHECKING:
    import anthropic
    import httpx2
    from anthropic import Anthropic

PATH = "/v1/messages/batches"
COUNT_PATH = "/v1/messages/count_tokens"
CHUNK_BYTES = 1 << 20
RESULTS_SETTLE_SECONDS = 600.0  # what is written may be readable everywhere only later
_PAGE = 1000
_FIRST_PAUSES = (0.5, 1.0)
_SHORTEST_SECRET = 16  # a local server takes any word, which may well stand in what it says
_FRAMING = {"content-length", "transfer-encoding"}
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ResultsBody:
    """A results file on its way. `is_framed` tells whether a body that broke off would be noticed."""

    chunks: Iterator[bytes]
    is_framed: bool


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
        check_client(client)
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

    def seconds_until_settled(self, batch: Batch, *, default: float) -> float:
        """Return how long lines may still come late to the results of a batch that ended, by the API's time."""
        ended_at = (batch.ended_at or batch.created_at).timestamp()
        return ended_at + RESULTS_SETTLE_SECONDS - self.now(default=default)

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
        page = self._decode(self._get(PATH, params={"limit": 1}), Page)
        return page.data[0].id if page.data else None

    def newest_first(self, *, at_least: int = _PAGE) -> Iterator[Batch]:
        """Yield the workspace's batches; the first call asks for at least so many, up to 1,000."""
        params: dict[str, Any] = {"limit": max(20, min(_PAGE, at_least))}
        while True:
            page = self._decode(self._get(PATH, params=params), Page)
            yield from page.data
            if not page.has_more or not page.data:
                return
            params = {"limit": _PAGE, "after_id": page.data[-1].id}

    def retrieve(self, batch_id: str) -> Batch | None:
        """Return a batch, or None if the API knows none by that id."""
        try:
            return self._decode(self._get(f"{PATH}/{quote(batch_id, safe='')}"), Batch)
        except ApiError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    def cancel(self, batch_id: str) -> Batch:
        """Ask the API to cancel a batch; requests already answered stay answered, and billed."""
        return self._decode(self._call("post", f"{PATH}/{quote(batch_id, safe='')}/cancel"), Batch)

    def count_tokens(self, params: Mapping[str, Any], *, betas: Sequence[str]) -> int:
        """Count the input tokens of a request, for nothing; the API checks the request on the way."""
        from anthropic.types import MessageCountTokensParams as Stable  # noqa: PLC0415  loaded with the client
        from anthropic.types.beta import MessageCountTokensParams as Beta  # noqa: PLC0415

        taken = (Beta if betas else Stable).__annotations__
        content = encode({key: value for key, value in params.items() if key in taken})
        answer = self._call("post", COUNT_PATH, content=[content], **_body_options(len(content), betas))
        return self._decode(answer, TokenCount).input_tokens

    def create(
        self, body: Iterable[bytes], *, size: int, betas: Sequence[str], is_complete: Callable[[], bool]
    ) -> Batch:
        """Send a body of `size` bytes as a new batch, once.

        `is_complete` tells, when the call has failed, whether the whole body may have left.

        Raises:
            CreateRefusedError: There is no batch, or nobody can tell.
        """
        try:
            answer = self._call("post", PATH, content=body, follow_redirects=False, **_body_options(size, betas))
        except ApiError as error:
            raise CreateRefusedError(error, then=consequence(error, complete=is_complete())) from None
        try:
            return self._decode(answer, Batch)
        except ApiError as error:
            raise CreateRefusedError(error, then="doubtful") from error

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
        import httpx2  # noqa: PLC0415  loaded with the client

        own = self._client.base_url
        try:
            parts = httpx2.URL(url)
        except httpx2.InvalidURL:
            return False
        return not parts.host or _origin(parts) == _origin(own)

    def _decode(self, answer: "httpx2.Response", kind: type[_T]) -> _T:
        return decode(answer.content, kind, host=self._client.base_url.host)

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


def _origin(url: "httpx2.URL") -> tuple[object, ...]:
    return url.scheme, url.netloc, url.userinfo  # whoever needs a password needs it for the results as well


def _body_options(size: int, betas: Sequence[str]) -> dict[str, Any]:
    """Say how long a body is, and which beta features it asks for."""
    headers = {"Content-Type": "application/json", "Content-Length": str(size)}
    if not betas:
        return {"headers": headers}
    return {"headers": headers | {"anthropic-beta": ",".join(betas)}, "params": {"beta": "true"}}


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
