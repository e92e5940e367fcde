"""One request at a time, from several threads: asked until it is answered, whatever breaks on the way.

What it came to is a line as those of a batch's results, and how often it was asked: `attempts`.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from claude_pipeline.assembling import Assembly
from claude_pipeline.continuing import Seam, can_continue, continued, joined
from claude_pipeline.errors import ApiError
from claude_pipeline.events import Event, EventReader
from claude_pipeline.lines import judge
from claude_pipeline.logs import tell
from claude_pipeline.messages import LiveBody, MessagesApi
from claude_pipeline.pace import Pace
from claude_pipeline.prompts import Request
from claude_pipeline.refusals import NOT_FOUND, SPEND_LIMIT, TOO_MANY, is_passing

_PATIENCE = 10  # times that the API may say "too many requests" to one row
_BACK_OFF_SECONDS, _LONGEST_BACK_OFF_SECONDS = 0.5, 30.0


class Heard(NamedTuple):
    """What has come of a row's answer: the text to say of it, its events as the API sent them, or that it restarts."""

    row: int
    text: str
    events: list[bytes]
    restarts: bool = False


class Answered(NamedTuple):
    """What a request came to. Seconds are from the first asking; None if there was no answer to time."""

    line: bytes
    seconds_to_first_token: float | None
    tokens_per_second: float | None


@dataclass(slots=True)
class _Tale:
    """What is known of a request over its attempts."""

    row: int
    request: Request
    asked_at: float = 0.0
    first_token_at: float | None = None
    attempts: int = 0
    refusals: int = 0
    before: str = ""
    model: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)

    @property
    def params(self) -> dict[str, Any]:
        return msgspec.json.decode(self.request.params, type=dict[str, Any])

    @property
    def asked_model(self) -> str:
        return str(self.params["model"])

    def break_off(self, assembly: Assembly) -> None:
        """Keep what can be kept of an attempt that ended too early; it is billed as far as it came."""
        self.count(assembly)
        text = assembly.text
        if text.strip() and assembly.is_plain_text and can_continue(self.params):
            self.before = joined(self.before, text, model=self.asked_model) if self.before else text
        elif assembly.has_begun:
            self.before = ""

    def give_up(self, error: ApiError) -> Answered:
        """End it with an error; what was used until then is paid."""
        spent = {"spent": {"model": self.model, "usage": self.usage}} if self.model else {}
        kind = error.error_type or "api_error"
        return errored(self.request.address, kind, str(error), attempts=self.attempts, **spent)

    def count(self, assembly: Assembly) -> None:
        """Add what an attempt has used."""
        self.model = assembly.model or self.model
        self.usage = _sum(self.usage, assembly.usage)


class Answering:
    """Asks the API row by row.

    Attributes:
        hear: Is told what has come, if anybody wants to know.
        keeps_events: Whether it wants the events as well.
    """

    def __init__(
        self,
        api: MessagesApi,
        pace: Pace,
        *,
        betas: tuple[str, ...],
        max_attempts: int,
        idle_timeout: float,
        one_model: bool,
        hear: Callable[[Heard], None] | None = None,
        keeps_events: bool = False,
    ) -> None:
        self._api, self._pace = api, pace
        self._betas, self._max_attempts, self._idle_timeout = betas, max_attempts, idle_timeout
        self._one_model = one_model
        self._hear, self._keeps_events = hear, keeps_events
        self._open: set[LiveBody] = set()
        self._lock = threading.Lock()

    def stop(self) -> None:
        """End all that is under way: nothing more is asked, and whoever listens is woken up."""
        self._pace.stop()
        with self._lock:
            for body in self._open:
                body.hang_up()

    def answer(self, row: int, request: Request) -> Answered:
        """Ask until there is an answer, or an error that stays.

        Raises:
            ApiError: Nobody's request would be answered: the account, its spend limit, or the only model.
            StoppedError: The run is over.
        """
        tale = _Tale(row, request)
        while True:
            try:
                with self._pace.turn():
                    return self._attempt(tale)
            except ApiError as error:
                if not self._may_go_on(tale, error):
                    return tale.give_up(error)

    def _attempt(self, tale: _Tale) -> Answered:
        tale.attempts += 1
        tale.asked_at = tale.asked_at or time.monotonic()
        params = continued(tale.params, tale.before) if tale.before else tale.request.params
        assembly = Assembly()
        try:
            with self._api.stream(params, betas=self._betas, idle_timeout=self._idle_timeout) as body:
                with self._listening(body):
                    self._listen(tale, body, assembly)
                message = assembly.message()
        except ApiError:
            tale.break_off(assembly)
            raise
        self._pace.note(body.headers)
        tale.count(assembly)
        return _succeeded(tale, message)

    @contextmanager
    def _listening(self, body: LiveBody) -> Iterator[None]:
        with self._lock:
            self._open.add(body)
        try:
            self._pace.check()
            yield
        finally:
            with self._lock:
                self._open.discard(body)

    def _listen(self, tale: _Tale, body: LiveBody, assembly: Assembly) -> None:
        reader = EventReader()
        seam = Seam(tale.before, model=tale.asked_model) if tale.before else None
        try:
            for chunk in body.chunks:
                self._take(tale, [*reader.feed(chunk)], assembly, seam)
        finally:
            if self._hear and seam and (rest := seam.finish()):
                self._hear(Heard(tale.row, rest, []))

    def _take(self, tale: _Tale, heard: list[bytes], assembly: Assembly, seam: Seam | None) -> None:
        """Take events as far as they are whole, and tell what they say though one of them is an error."""
        events: list[Event] = []
        try:
            for data in heard:
                events.append(assembly.add(data))  # noqa: PERF401  those before an error count
        finally:
            if tale.first_token_at is None and any(event.delta for event in events):
                tale.first_token_at = time.monotonic()
            text = "".join(event.delta.text for event in events if event.delta)
            said = seam.add(text) if seam and text else text
            if self._hear and (said or (self._keeps_events and events)):
                self._hear(Heard(tale.row, said, heard[: len(events)] if self._keeps_events else []))

    def _may_go_on(self, tale: _Tale, error: ApiError) -> bool:
        """Wait until the request may be tried again; tell if it may not.

        Raises:
            ApiError: Nobody's may.
        """
        self._pace.check()
        if self._concerns_all(error):
            raise error
        if not is_passing(error) or judge(error.error_type or "", str(error)) == "final":
            return False
        if error.status == TOO_MANY:
            tale.attempts -= 1  # it was not taken
            tale.refusals += 1
            seconds = _back_off(tale.refusals) if error.retry_after is None else error.retry_after
            self._pace.slow_down(seconds)
            tell("stream.rests", seconds=seconds, reason=str(error))
            return tale.refusals < _PATIENCE
        if tale.attempts >= self._max_attempts:
            return False
        self._pace.sleep(max(error.retry_after or 0.0, _back_off(tale.attempts)))
        self._announce(tale, error)
        return True

    def _concerns_all(self, error: ApiError) -> bool:
        """Tell whether an error is of the account, or of the model that all rows ask."""
        of_account = judge(error.error_type or "", str(error)) == "account" or error.code == SPEND_LIMIT
        return of_account or (error.status == NOT_FOUND and self._one_model)

    def _announce(self, tale: _Tale, error: ApiError) -> None:
        """Tell whoever wants the events that an answer broke off, and whether it will go on or begin anew."""
        tell("stream.retried", row=tale.row + 1, attempt=tale.attempts + 1, reason=str(error))
        if self._hear:
            continues = bool(tale.before)
            event = {"type": "retry", "attempt": tale.attempts + 1, "continues": continues, "error": str(error)}
            events = [msgspec.json.encode(event)] if self._keeps_events else []
            self._hear(Heard(tale.row, "", events, restarts=not continues))


def _back_off(times: int) -> float:
    """Return longer and longer pauses, of which no two rows have the same."""
    longest: float = min(_LONGEST_BACK_OFF_SECONDS, _BACK_OFF_SECONDS * 2**times)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311  no secret


def _succeeded(tale: _Tale, message: dict[str, Any]) -> Answered:
    ended_at = time.monotonic()
    whole = message | {"content": _with_beginning(tale, message["content"]), "usage": tale.usage}
    tokens = tale.usage.get("output_tokens") or 0
    line = _line(tale.request.address, tale.attempts, {"type": "succeeded", "message": whole})
    if tale.first_token_at is None:
        return Answered(line, None, None)
    seconds = max(ended_at - tale.first_token_at, 1e-6)
    return Answered(line, tale.first_token_at - tale.asked_at, tokens / seconds)


def _with_beginning(tale: _Tale, content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put what an earlier attempt said before the text of the last one."""
    if not tale.before:
        return content
    first, rest = (content[0], content[1:]) if content and content[0].get("type") == "text" else ({}, content)
    text = joined(tale.before, first.get("text", ""), model=tale.asked_model)
    return [{"type": "text"} | first | {"text": text}, *rest]


def errored(address: bytes, error_type: str, message: str, *, attempts: int = 0, **spent: object) -> Answered:
    """Write what a request came to that has no answer."""
    detail = {"type": "error", "error": {"type": error_type, "message": message}, "request_id": None}
    return Answered(_line(address, attempts, {"type": "errored", "error": detail, **spent}), None, None)


def _line(address: bytes, attempts: int, result: Mapping[str, object]) -> bytes:
    return msgspec.json.encode({"custom_id": address.hex(), "attempts": attempts, "result": result})


def _sum(known: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Add up usage, name by name; what is no number is that of the last attempt."""
    total = dict(known)
    for name, count in more.items():
        before = total.get(name)
        if isinstance(count, dict):
            total[name] = _sum(before if isinstance(before, dict) else {}, count)
        elif isinstance(count, int) and isinstance(before, int):
            total[name] = before + count
        elif count is not None or name not in total:
            total[name] = count
    return total
