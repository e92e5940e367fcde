"""What went wrong with an object on S3 or GCS, in one sentence: the place, what the matter is, and the way out.

Clients of object stores raise errors of many kinds; they are told apart by the code of the answer or by the name of
their class, so that none of the clients has to be loaded.
"""

import re
from collections.abc import Iterator
from typing import Literal

from claude_pipeline.errors import PlaceError

Verb = Literal["read", "written", "removed"]

_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "NoAuthTokenError"}
_BAD_CREDENTIALS = {
    *("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired", "401"),
    *(
        "ProfileNotFound",
        "CredentialRetrievalError",
        "TokenRetrievalError",
        "RefreshError",
        "UnauthorizedSSOTokenError",
    ),
}
_DENIED = {"AccessDenied", "AllAccessDisabled", "AccountProblem", "InvalidObjectState", "403", "Forbidden"}
_ELSEWHERE = {
    *("PermanentRedirect", "TemporaryRedirect", "Redirect", "AuthorizationHeaderMalformed", "301", "307"),
    "IllegalLocationConstraintException",
}
_UNREACHABLE = {
    *("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError", "SSLError"),
    *("ProxyConnectionError", "ClientConnectorError", "ClientConnectorDNSError", "ServerDisconnectedError"),
    *("ConnectionRefusedError", "ConnectionResetError", "TimeoutError", "FSTimeoutError", "TransportError"),
}
_SKEWED = {"RequestTimeTooSkewed"}
_USER_INFO = re.compile(r"(?<=//)[^/@\s]*@")
_LONGEST = 200


class MissingPlaceError(PlaceError, FileNotFoundError):
    """There is no such object."""


def explain(error: Exception, url: str, *, verb: Verb) -> PlaceError:
    """Say what went wrong while an object was read or written."""
    codes = list(_codes(error))
    told = f" ({codes[0]})" if codes else ""
    if "NoSuchBucket" in codes or (verb == "written" and isinstance(error, FileNotFoundError)):
        return PlaceError(f"There is no bucket for {url}. Create it, or mend the name.")
    if isinstance(error, FileNotFoundError):
        return MissingPlaceError(f"There is no {url}.")
    for known, words in _sentences(url, verb, told):
        if not known.isdisjoint(codes):
            return PlaceError(words)
    return PlaceError(f"{url} cannot be {verb}{told}: {_words(error)} Run the same command again.")


def _sentences(url: str, verb: Verb, told: str) -> Iterator[tuple[set[str], str]]:
    is_google = url.startswith("gs:")
    own = (
        "GOOGLE_APPLICATION_CREDENTIALS" if is_google else "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    )
    endpoint = "STORAGE_EMULATOR_HOST" if is_google else "AWS_ENDPOINT_URL"
    again = "and run the same command again."
    yield _NO_CREDENTIALS, f"There are no credentials for {url}. Set {own}."
    yield _BAD_CREDENTIALS, f"The credentials for {url} are not accepted{told}. Mend {own}, {again}"
    yield _DENIED, f"{url} may not be {verb} with these credentials{told}. Have them allowed to, {again}"
    yield _ELSEWHERE, f"{url} is in another region{told}. Set AWS_DEFAULT_REGION to its bucket's, {again}"
    yield _SKEWED, f"The server of {url} finds this machine's clock wrong{told}. Set it right, {again}"
    yield _UNREACHABLE, f"{url} cannot be reached{told}. Mend the network or {endpoint}, {again}"


def _codes(error: BaseException | None) -> Iterator[str]:
    """Yield the codes of the answer, then the names of the errors, from the first cause on."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.insert(0, error)
        error = error.__cause__ or error.__context__
    for each in chain:
        response = getattr(each, "response", None)
        code = response.get("Error", {}).get("Code") if isinstance(response, dict) else getattr(each, "code", None)
        if code:
            yield str(code)
    if any(str(each).startswith("Forbidden:") for each in chain):  # all that gcsfs tells of it
        yield "403"
    yield from (type(each).__name__ for each in chain)


def _words(error: Exception) -> str:
    told = getattr(error, "strerror", None) or str(error)
    words = _USER_INFO.sub("***@", told.strip().partition("\n")[0])[:_LONGEST]
    return words if words.endswith(".") else f"{words}."
