"""The sandbox as a thing that runs: a socket, a thread, and what may be asked of it from outside."""

import asyncio
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import datetime
from functools import partial
from math import inf
from os import PathLike
from pathlib import Path
from secrets import token_hex
from threading import Lock, Thread
from time import sleep, time
from typing import TYPE_CHECKING, Any, Final, Self

from claude_pipeline.keywords import named
from claude_pipeline.sandbox.activity import Activity
from claude_pipeline.sandbox.answers import AnswerFunction, answer_function, facts
from claude_pipeline.sandbox.api import Api, ReceivedRequest
from claude_pipeline.sandbox.clock import Clock
from claude_pipeline.sandbox.conformance import SeededApi
from claude_pipeline.sandbox.errors import ListenError
from claude_pipeline.sandbox.faults import Fault, Faults, Section
from claude_pipeline.sandbox.faults.plans import Source, read_plan, with_rates
from claude_pipeline.sandbox.folder import FolderJournal
from claude_pipeline.sandbox.journal import Canceled, Created, Ended, Journal, Stepped
from claude_pipeline.sandbox.limits import RateLimits
from claude_pipeline.sandbox.log import Entry, Log
from claude_pipeline.sandbox.outcomes import Answering, RowFunction
from claude_pipeline.sandbox.pacing import Pace

if TYPE_CHECKING:
    from starlette.types import ASGIApp

LONGEST_SLEEP: Final = 3600.0


class Sandbox:
    """A local server that speaks the Anthropic API and spends nothing; use it with `with`.

    Args:
        host: The address to listen on; only this machine reaches the usual one.
        port: The port; 0 takes a free one.
        batch_seconds: How long a batch takes; with 0 it has ended at the first look. What is not done when it is
            canceled is canceled, and what is not done after 24 hours expires.
        answer: Writes an answer from the request's params: a text, content blocks, or a dict with `content` and
            more; or the name of one: `facts` (the first sentence of the last user turn), `echo`, `module:function`.
        rows: `rows(custom_id, params, attempt)` decides a request of a batch: `succeeded` (even when the
            batch is canceled or expires), `expired`, `canceled`, `credit_too_low`, `refusal`, `truncated`, an
            error type such as `api_error`, or None to leave it to the faults. `attempt` counts from 1 over all
            batches.
        error_rates: The share of requests that fail, by error type: `{"api_error": 0.02}`.
        expire_rate: The share of requests that expire.
        tier: `start`, `build` or `scale`: calls and tokens a minute, and the queue, are limited as there.
        max_queued_requests: How many requests may be processing at once; a batch above it is a 429.
        latency: The seconds from a message's request to its first token.
        tokens_per_second: How fast the tokens of a message follow then.
        clock_speed: How many seconds of the sandbox a real one is; 0: time passes by `advance_clock` only.
        seed: Chooses the order of results and which requests the rates meet.
        workspace: What the `anthropic-workspace-id` header says; None: every API key has a workspace of its own.
        data: A folder that keeps batches, bill and clock, so that a later sandbox goes on with them, even if
            this one is killed. Answers are not kept: give the later one the same `answer`, `rows`, faults,
            rates and seed.
        conformance: Whether every id is known, for the test suites of other clients.
        faults: What goes wrong, and when: a file that ends in `.toml` or `.json`, or its content. The rates join it.
        on_request: Called with the log's entry of each request once it is answered.

    Raises:
        ValueError: Rates that are no shares, a negative time, no such tier, or a fault that could never happen.
        ListenError: On entering, when the address is taken.
        DataError: On entering, when `data` cannot be written or read, or is another sandbox's.
    """

    @named()
    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        batch_seconds: float = 0.0,
        answer: AnswerFunction | str = facts,
        rows: RowFunction | None = None,
        error_rates: Mapping[str, float] | None = None,
        expire_rate: float = 0.0,
        tier: str | None = None,
        max_queued_requests: int | None = None,
        latency: float = 0.0,
        tokens_per_second: float = inf,
        clock_speed: float = 1.0,
        seed: int = 0,
        workspace: str | None = "sandbox",
        data: str | PathLike[str] | None = None,
        conformance: bool = False,
        faults: Source | None = None,
        on_request: Callable[[Entry], None] | None = None,
    ) -> None:
        if not batch_seconds >= 0:
            error = f"A batch takes no negative time: batch_seconds={batch_seconds}."
            raise ValueError(error)
        if max_queued_requests is not None and max_queued_requests < 1:
            error = f"A queue has room for one request at least: max_queued_requests={max_queued_requests}."
            raise ValueError(error)
        write = answer_function(answer) if isinstance(answer, str) else answer
        self._host, self._port, self._workspace = host, port, workspace
        self._pace = Pace(latency=latency, tokens_per_second=tokens_per_second)
        self._limits, self._log = RateLimits(tier), Log(on_request)
        plan = with_rates(read_plan(faults), error_rates=error_rates or {}, expire_rate=expire_rate)
        self._faults = Faults(plan, seed=seed)
        answering = Answering(write=write, rows=rows, faults=self._faults, seed=seed)
        self._new_api = partial(
            SeededApi if conformance else Api,
            answering=answering,
            batch_seconds=batch_seconds,
            limits=self._limits,
            max_queued_requests=max_queued_requests or self._limits.queued_requests,
        )
        self._data = None if data is None else Path(data).absolute()
        self._new_clock = partial(Clock, speed=clock_speed)
        self._api, self._clock = self._new_api(journal=Journal()), self._new_clock()
        self._lock, self._activity = Lock(), Activity()
        self._url: str | None = None
        self._leave = ExitStack()

    @property
    def url(self) -> str:
        """The base URL for a client; a `RuntimeError` outside of `with`."""
        if self._url is None:
            error = "The sandbox is not running. Use it as `with Sandbox() as sandbox: sandbox.url`."
            raise RuntimeError(error)
        return self._url

    def __enter__(self) -> Self:
        """Listen, and return once connections are accepted."""
        identity = token_hex(16)
        with ExitStack() as leave:
            journal = leave.enter_context(closing(self._open_journal()))
            app = self._app(identity)
            listener = leave.enter_context(_listen(self._host, self._port))
            host, port = listener.getsockname()[:2]
            leave.callback(_start(app, listener))
            journal.announce(port=port, identity=identity)
            self._leave = leave.pop_all()
        self._url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        return self

    def __exit__(self, *_exception: object) -> None:
        """Close every connection and stop; what was received stays readable here."""
        self._leave.close()
        self._url = None

    def usage(self) -> dict[str, int]:
        """Return what was accepted and what was billed: the same as `GET /_sandbox/usage`."""
        with self._lock:
            return self._api.usage(now=self._clock.now())

    def requests(self, batch_id: str | None = None) -> Iterator[ReceivedRequest]:
        """Return the requests of one batch or of all that were not deleted, in the order received."""
        with self._lock:
            return self._api.requests(batch_id)

    def log(self) -> Sequence[Entry]:
        """Return the last 100,000 requests in the order of their answers: the same as `GET /_sandbox/log`."""
        return self._log.entries()

    def advance_clock(self, seconds: float) -> None:
        """Step the sandbox's clock forward; a step back is a `ValueError`."""
        with self._lock:
            self._clock.advance(seconds)

    def set_clock(self, now: datetime) -> None:
        """Set the sandbox's clock; a time further than a century from the real one is a `ValueError`."""
        with self._lock:
            self._clock.set(now.timestamp())

    def speed_up_clock(self, speed: float) -> None:
        """Let the sandbox's clock run at `speed` seconds for a real one from here on; 0 stops it."""
        with self._lock:
            self._clock.speed_up(speed)

    def fail_next(
        self,
        operation: Section,
        fault: str | int,
        *,
        times: int = 1,
        after: int = 0,
        retry_after: int = 1,
    ) -> None:
        """Let the next `times` operations meet a fault, once `after` of them have passed; see `faults.NAMES`.

        `drop_before` and `drop_after` cut the connection before or after the operation is done; a status
        from 400 to 599 refuses it (429 with `retry_after` seconds); `missing_line`, `duplicate_line`,
        `garbage_line` and `cut` spoil results. It comes before the faults of the plan.
        """
        if times < 1 or after < 0:
            error = f"A fault is met once at least, after none or more: times={times}, after={after}."
            raise ValueError(error)
        self._faults.order(operation, Fault(name=fault, times=times, retry_after=retry_after), after=after)

    def idle_seconds(self) -> float:
        """Return how long nobody has asked anything; 0 while something is being answered."""
        return self._activity.idle_seconds()

    def _open_journal(self) -> Journal:
        if self._data is None:
            return Journal()
        journal = FolderJournal(self._data)
        with ExitStack() as undo:
            undo.callback(journal.close)
            # A thread's stack is fresh: what was accepted deep in one is not too deep to be read again.
            with ThreadPoolExecutor(1) as thread:
                thread.submit(self._repeat, journal).result()
            undo.pop_all()
        return journal

    def _repeat(self, journal: Journal) -> None:
        api, ahead, latest = self._new_api(journal=journal), 0.0, 0.0
        for event, requests in journal.replay():
            match event:
                case Stepped(seconds):
                    ahead += seconds
                case Created(at=at) | Canceled(at=at) | Ended(at=at):
                    latest = max(latest, at)
            api.repeat(event, requests)
        self._api = api
        # A clock that ran faster had come further than its steps.
        ahead = max(ahead, latest - time())
        self._clock = self._new_clock(ahead=ahead, on_step=lambda seconds: journal.record(Stepped(seconds)))

    def _app(self, identity: str) -> "ASGIApp":
        # Starlette and uvicorn are loaded by those who start a server only.
        from claude_pipeline.sandbox.control import Control  # noqa: PLC0415 - as said above
        from claude_pipeline.sandbox.door import Door  # noqa: PLC0415 - as said above
        from claude_pipeline.sandbox.server import Server, build_app  # noqa: PLC0415 - as said above

        server = Server(
            api=self._api,
            clock=self._clock,
            faults=self._faults,
            limits=self._limits,
            pace=self._pace,
            lock=self._lock,
        )
        control = Control(server=server, log=self._log, identity=identity)
        app = build_app([*server.routes(), *control.routes()])
        return Door(app, workspace=self._workspace, activity=self._activity, clock=self._clock, log=self._log)


def run_sandbox(sandbox: Sandbox, *, on_ready: Callable[[Sandbox], None], idle_seconds: float = inf) -> None:
    """Run a sandbox until Ctrl-C, or until nobody has asked for `idle_seconds`.

    `on_ready` is called once it accepts connections.

    Raises:
        ListenError: When the address is taken.
        DataError: When the sandbox's folder cannot be used.
    """
    try:
        with sandbox:
            on_ready(sandbox)
            while (left := idle_seconds - sandbox.idle_seconds()) > 0:
                sleep(min(left, LONGEST_SLEEP))
    except KeyboardInterrupt:
        return


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        # A server looks the name up too, but wraps what is wrong with it in an error of its own.
        socket.getaddrinfo(host, None, family=family)
        return socket.create_server((host, port), family=family)
    except (OSError, ValueError) as error:
        raise ListenError(host, port, reason=error) from error


def _start(app: "ASGIApp", listener: socket.socket) -> Callable[[], None]:
    from claude_pipeline.sandbox.serving import serve  # noqa: PLC0415 - loads uvicorn

    ready: Future[Callable[[], Any]] = Future()
    thread = Thread(target=lambda: asyncio.run(serve(app, listener, ready)), name="sandbox", daemon=True)
    thread.start()
    return partial(_stop, thread, ready.result())


def _stop(thread: Thread, ask: Callable[[], Any]) -> None:
    ask()
    thread.join()
