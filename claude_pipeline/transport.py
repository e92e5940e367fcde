"""The SDK's own client as a transport: its credentials, base URL and typed errors, each call made once.

The SDK's own retries obey `retry-after` without a bound, which would hold up a sensor for hours.
"""

import gc
import ipaddress
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

from claude_pipeline.errors import ApiError, CredentialsError, InputError, PipelineError
from claude_pipeline.logs import tell
from claude_pipeline.parameters import check_client
from claude_pipeline.refusals import UNAUTHORIZED, code_of, seconds_of, type_of, words_of
from claude_pipeline.wire import decode

if TYPE_CHECKING:
    import anthropic
    import httpx2
    from anthropic import Anthropic

_SHORTEST_SECRET = 16  # a local server takes any word, which may well stand in what it says
GZIP_VARIABLE = "CLAUDE_PIPELINE_GZIP"
Encoding = Literal["gzip"] | None
_GZIP: dict[str, Encoding] = {"": None, "0": None, "1": "gzip"}
_T = TypeVar("_T")


def make_client(base_url: str | None = None, *, api_key: str | None = None) -> "Anthropic":
    """Build the SDK's client; a server on this machine needs no key.

    Raises:
        CredentialsError: There are no credentials.
    """
    with _promoted():
        from anthropic import Anthropic  # noqa: PLC0415  takes longer than everything else together

    client = Anthropic(base_url=base_url, api_key=api_key)
    if client.api_key or client.auth_token or client.credentials or "authorization" in _custom_headers(client):
        return client
    if _is_loopback(client.base_url.host):
        return Anthropic(base_url=base_url, api_key="sandbox")
    raise CredentialsError


@contextmanager
def _promoted() -> Iterator[None]:
    """Put what the SDK's import makes among the old objects at once, unless the collector is somebody else's business.

    They are half a million, none of them garbage, and to look through them again and again takes 0.5 s.
    """
    if "anthropic" in sys.modules or not gc.isenabled() or gc.get_freeze_count():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.unfreeze()
        gc.enable()


def check_base_url(base_url: str | None) -> None:
    """Make sure that a base URL may be kept with a job.

    Raises:
        InputError: It is none, or it holds credentials.
    """
    try:
        parts = urlsplit(base_url or "")
    except ValueError as error:
        raise InputError(f"The base URL is none ({error}).") from None
    if parts.username is not None or parts.password is not None:
        raise InputError("The base URL holds credentials, which the store would keep. Set ANTHROPIC_BASE_URL instead.")


class Transport:
    """A client whose errors are ours, and whose secrets stand in none of them."""

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

    def _decode(self, answer: "httpx2.Response", kind: type[_T]) -> _T:
        return decode(answer.content, kind, host=self._client.base_url.host)

    def _get(self, path: str, *, name: str, params: dict[str, Any] | None = None) -> "httpx2.Response":
        return self._call("get", path, name=name, params=params or {})

    def _call(
        self,
        method: Literal["get", "post", "delete"],
        path: str,
        *,
        name: str,
        content: Iterable[bytes] | None = None,
        stream: bool | None = None,
        **options: Any,  # noqa: ANN401  the SDK's own request options
    ) -> "httpx2.Response":
        """Make the call that the SDK calls `name`, which its own span is named after."""
        import anthropic  # noqa: PLC0415  loaded with the client
        import httpx2  # noqa: PLC0415

        taken = {"content": content if method == "post" else None, "stream": stream}
        given = {key: value for key, value in taken.items() if value is not None}
        options |= {"max_retries": 0, "span_name": f"anthropic.{name}"}
        told = _Told(method.upper(), urlsplit(path).path)
        try:
            call: Any = getattr(self._client, method)
            answer: httpx2.Response = call(path, cast_to=httpx2.Response, options=options, **given)
        except anthropic.APIStatusError as error:
            told.answered(error.response)
            raise self._refused(error) from None
        except anthropic.APIConnectionError as error:
            raise self._broken(_root(error), told) from None
        except TypeError as error:
            if "authentication method" in str(error):
                raise CredentialsError from error
            raise
        told.answered(answer)
        self._note_date(answer)
        return answer

    def _broken(self, cause: BaseException, told: "_Told") -> PipelineError:
        if isinstance(cause, PipelineError):  # raised by what yields the body
            return cause
        words = self._masked(f"{type(cause).__name__}: {cause}".rstrip(": "))
        told.failed(words)
        return ApiError(f"The API at {self._client.base_url.host} could not be reached ({words}).")

    def _note_date(self, answer: "httpx2.Response") -> None:
        with suppress(ValueError, OverflowError):
            date = parsedate_to_datetime(answer.headers.get("date", ""))
            self._answered = (date.replace(tzinfo=date.tzinfo or UTC).timestamp(), time.monotonic())

    def _refused(self, error: "anthropic.APIStatusError") -> ApiError:
        message = self._masked(f"The API answered {error.status_code}: {words_of(error)}")
        if error.status_code == UNAUTHORIZED:
            message = f"{message.removesuffix('.')}. Check the API key."
        retry_after = seconds_of(error.response.headers.get("retry-after"))
        return ApiError(
            message, status=error.status_code, error_type=type_of(error), code=code_of(error), retry_after=retry_after
        )

    def _masked(self, words: str) -> str:
        """Hide credentials: a gateway may repeat the key that it refuses."""
        for secret in self._secrets:
            words = words.replace(secret, "***")
        return words


class _Told:
    """A call that is logged when it is over; of its URL no query, which a gateway may keep secrets in."""

    def __init__(self, method: str, path: str) -> None:
        self._call = {"method": method, "path": path}
        self._begun_at = time.monotonic()

    def answered(self, answer: "httpx2.Response") -> None:
        request_id = answer.headers.get("request-id")
        tell("api.called", **self._call, **self._seconds(), status=answer.status_code, request_id=request_id)

    def failed(self, reason: str) -> None:
        tell("api.failed", **self._call, **self._seconds(), reason=reason)

    def _seconds(self) -> dict[str, float]:
        return {"seconds": round(time.monotonic() - self._begun_at, 6)}


def body_encoding() -> Encoding:
    """Tell how the bodies of batches go out: on a slow link it pays to pack them."""
    wanted = os.environ.get(GZIP_VARIABLE, "")
    if wanted not in _GZIP:
        raise InputError(f"{GZIP_VARIABLE} is {wanted!r}. Set it to 1 to send the bodies of batches as gzip, or to 0.")
    return _GZIP[wanted]


def body_options(size: int, betas: Sequence[str], *, encoding: Encoding = None) -> dict[str, Any]:
    """Say how long a body is, and which beta features it asks for."""
    headers = {"Content-Type": "application/json", "Content-Length": str(size)}
    headers |= {"Content-Encoding": encoding} if encoding else {}
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
