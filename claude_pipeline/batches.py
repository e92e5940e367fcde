"""The edge to the Message Batches API, through the SDK's own client: its credentials, base URL and typed errors.

Requests go out as bytes and results come in as large chunks; what lies between is never a list of dicts.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote, urlsplit

from claude_pipeline.errors import ApiError
from claude_pipeline.refusals import NOT_FOUND, CreateRefusedError, consequence, is_passing
from claude_pipeline.transport import Encoding, Transport, body_options
from claude_pipeline.wire import Batch, Page, TokenCount, encode

if TYPE_CHECKING:
    import httpx2

PATH = "/v1/messages/batches"
COUNT_PATH = "/v1/messages/count_tokens"
CHUNK_BYTES = 1 << 20
RESULTS_SETTLE_SECONDS = 600.0  # what is written may be readable everywhere only later
_BATCHES = "messages.batches"
_PAGE = 1000
_FIRST_PAUSES = (0.5, 1.0)
_FRAMING = {"content-length", "transfer-encoding"}


@dataclass(frozen=True, slots=True)
class ResultsBody:
    """A results file on its way. `is_framed` tells whether a body that broke off would be noticed."""

    chunks: Iterator[bytes]
    is_framed: bool


class BatchesApi(Transport):
    """The calls that a job needs, each made once: what failed and may pass is due again at the next advance."""

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
                return self._get(PATH, name=f"{_BATCHES}.list", params={"limit": 1})
            except ApiError as error:
                if not is_passing(error):
                    raise
                time.sleep(seconds)
        return self._get(PATH, name=f"{_BATCHES}.list", params={"limit": 1})

    def newest_batch_id(self) -> str | None:
        """Return the id of the newest batch of the workspace."""
        page = self._decode(self._get(PATH, name=f"{_BATCHES}.list", params={"limit": 1}), Page)
        return page.data[0].id if page.data else None

    def newest_first(self, *, at_least: int = _PAGE) -> Iterator[Batch]:
        """Yield the workspace's batches; the first call asks for at least so many, up to 1,000."""
        params: dict[str, Any] = {"limit": max(20, min(_PAGE, at_least))}
        while True:
            page = self._decode(self._get(PATH, name=f"{_BATCHES}.list", params=params), Page)
            yield from page.data
            if not page.has_more or not page.data:
                return
            params = {"limit": _PAGE, "after_id": page.data[-1].id}

    def retrieve(self, batch_id: str) -> Batch | None:
        """Return a batch, or None if the API knows none by that id."""
        try:
            return self._decode(self._get(f"{PATH}/{quote(batch_id, safe='')}", name=f"{_BATCHES}.retrieve"), Batch)
        except ApiError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    def cancel(self, batch_id: str) -> Batch:
        """Ask the API to cancel a batch; requests already answered stay answered, and billed."""
        return self._decode(
            self._call("post", f"{PATH}/{quote(batch_id, safe='')}/cancel", name=f"{_BATCHES}.cancel"), Batch
        )

    def delete(self, batch_id: str) -> None:
        """Delete a batch that ended, and its results with it; one that is gone already will do."""
        try:
            self._call("delete", f"{PATH}/{quote(batch_id, safe='')}", name=f"{_BATCHES}.delete")
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise

    def count_tokens(self, params: Mapping[str, Any], *, betas: Sequence[str]) -> int:
        """Count the input tokens of a request, for nothing; the API checks the request on the way."""
        from anthropic.types import MessageCountTokensParams as Stable  # noqa: PLC0415  loaded with the client
        from anthropic.types.beta import MessageCountTokensParams as Beta  # noqa: PLC0415

        taken = (Beta if betas else Stable).__annotations__
        content = encode({key: value for key, value in params.items() if key in taken})
        options = body_options(len(content), betas)
        answer = self._call("post", COUNT_PATH, name="messages.count_tokens", content=[content], **options)
        return self._decode(answer, TokenCount).input_tokens

    def create(
        self,
        body: Iterable[bytes],
        *,
        size: int,
        betas: Sequence[str],
        is_complete: Callable[[], bool],
        encoding: Encoding = None,
    ) -> Batch:
        """Send a body of `size` bytes as a new batch, once.

        `is_complete` tells, when the call has failed, whether the whole body may have left.

        Raises:
            CreateRefusedError: There is no batch, or nobody can tell.
        """
        try:
            options = body_options(size, betas, encoding=encoding) | {"follow_redirects": False}
            answer = self._call("post", PATH, name=f"{_BATCHES}.create", content=body, **options)
        except ApiError as error:
            raise CreateRefusedError(error, then=consequence(error, complete=is_complete())) from None
        try:
            return self._decode(answer, Batch)
        except ApiError as error:
            raise CreateRefusedError(error, then="doubtful") from error

    @contextmanager
    def results(self, batch_id: str, results_url: str | None) -> Iterator[ResultsBody]:
        """Open a batch's results as chunks, as they come.

        Only a `results_url` at the client's own origin is followed: credentials go nowhere else.
        """
        import httpx2  # noqa: PLC0415  loaded with the client

        path = f"{PATH}/{quote(batch_id, safe='')}/results"
        url = results_url if results_url and self._is_own(results_url) else path
        response = self._call("get", url, name=f"{_BATCHES}.results", stream=True)
        try:
            framed = not _FRAMING.isdisjoint(response.headers) or response.http_version.startswith("HTTP/2")
            yield ResultsBody(response.iter_bytes(), framed)
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


def _origin(url: "httpx2.URL") -> tuple[object, ...]:
    return url.scheme, url.netloc, url.userinfo  # whoever needs a password needs it for the results as well


def body_chunks(file: BinaryIO, *, before_last: Callable[[], None]) -> Iterator[bytes]:
    """Read a spooled body in chunks, calling `before_last` just before the last one is handed out."""
    file.seek(0)
    chunk = file.read(CHUNK_BYTES)
    while following := file.read(CHUNK_BYTES):
        yield chunk
        chunk = following
    before_last()
    yield chunk
