"""The API's behaviour: no clock, no socket; time and bodies come in as arguments."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from secrets import token_hex
from typing import Any, Final

from claude_pipeline.sandbox import models
from claude_pipeline.sandbox.answers import input_tokens
from claude_pipeline.sandbox.batches import Batch, Ending, accept, result_chunks, settle, show
from claude_pipeline.sandbox.errors import ApiError, InvalidRequestError, NotFoundError
from claude_pipeline.sandbox.journal import Billed, Canceled, Created, Deleted, Ended, Event, Journal, Stepped
from claude_pipeline.sandbox.limits import RateLimits
from claude_pipeline.sandbox.outcomes import Answering, Caller, Row
from claude_pipeline.sandbox.pages import page, show_page
from claude_pipeline.sandbox.params import check_message, check_prompt
from claude_pipeline.sandbox.requests import Request, decode, decode_batch
from claude_pipeline.sandbox.spool import Body
from claude_pipeline.sandbox.usage import Tally
from claude_pipeline.sandbox.wire import Message, MessageBatch

NO_BATCH: Final = "No Message Batch has the id {batch_id}"


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """A request as it was received; `params` are its bytes, `attempt` counts its id over all batches."""

    batch_id: str
    custom_id: str
    attempt: int
    params: bytes


class Api:
    """Batches and messages in memory; a batch is seen by its workspace only."""

    def __init__(
        self,
        *,
        answering: Answering,
        batch_seconds: float,
        limits: RateLimits,
        max_queued_requests: int | None,
        journal: Journal,
    ) -> None:
        self._answering = answering
        self._batch_seconds = batch_seconds
        self._limits = limits
        self._max_queued_requests = max_queued_requests
        self._batches: dict[str, Batch] = {}
        self._tally = Tally()
        self._journal = journal

    def repeat(self, event: Event, requests: Iterable[Request]) -> None:
        """Let happen again what an earlier process has recorded."""
        match event:
            case Created():
                self._accept(event, requests)
            case Billed():
                self._tally.messages = event
            case Stepped():
                """The clock's."""
            case _ if event.batch_id in self._batches:
                self._change(event)

    def create(self, body: Body, caller: Caller) -> MessageBatch:
        """Accept a batch; its answers are written when it ends."""
        requests = decode_batch(body)
        self._check_queue(len(requests), now=caller.now)
        event = Created(f"msgbatch_01{token_hex(11)}", caller.now, caller.version, caller.workspace)
        self._journal.record(event, body)
        return self._show(self._accept(event, requests), caller)

    def retrieve(self, batch_id: str, caller: Caller) -> MessageBatch:
        """Show a batch."""
        return self._show(self._look(batch_id, caller), caller)

    def list_batches(self, query: Mapping[str, str], caller: Caller) -> dict[str, Any]:
        """Show a page of batches, newest first."""
        mine = [batch.id for batch in reversed(self._batches.values()) if batch.workspace == caller.workspace]
        ids, has_more = page(mine, query)
        return show_page([self.retrieve(batch_id, caller) for batch_id in ids], ids, has_more=has_more)

    def cancel(self, batch_id: str, caller: Caller) -> MessageBatch:
        """Begin to cancel a batch; it has ended by the next look. One that ended before stays as it is."""
        batch = self._look(batch_id, caller)
        if batch.status == "in_progress":
            self._journal.record(Canceled(batch_id, caller.now))
            batch = self._batches[batch_id] = replace(batch, cancel_initiated_at=caller.now)
        return self._show(batch, caller)

    def delete(self, batch_id: str, caller: Caller) -> dict[str, str]:
        """Forget a batch that has ended."""
        if self._look(batch_id, caller).status != "ended":
            message = f"Message Batch {batch_id} cannot be deleted while it is processing; cancel it first"
            raise InvalidRequestError(message)
        self._journal.record(Deleted(batch_id))
        del self._batches[batch_id]
        return {"id": batch_id, "type": "message_batch_deleted"}

    def results(self, batch_id: str, caller: Caller) -> Iterator[bytes]:
        """Yield the results of a batch that has ended, as JSON lines in large chunks."""
        batch = self._look(batch_id, caller)
        if batch.status != "ended" or batch.is_archived(caller.now):
            raise NotFoundError(f"Message Batch {batch_id} has no available results")
        return result_chunks(batch, seed=self._answering.seed)

    def message(self, body: Body, caller: Caller) -> tuple[Message, bool]:
        """Answer a message, and say whether it should be streamed."""
        params = check_message(decode(body), version=caller.version)
        self._limits.check_message(params["model"], now=caller.now)
        answered = self._answering.message(params, caller)
        self._journal.record(self._tally.bill_message(answered))
        message = answered.message(body, service_tier="standard")
        self._limits.spend(message.model, message.usage, now=caller.now)
        return message, params.get("stream") or False

    def count_tokens(self, body: Body, caller: Caller) -> dict[str, int]:
        """Estimate the tokens of a prompt."""
        return {"input_tokens": input_tokens(check_prompt(decode(body), version=caller.version))}

    def list_models(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Show a page of models."""
        ids, has_more = page(models.IDS, query)
        return show_page([models.model_info(model_id) for model_id in ids], ids, has_more=has_more)

    def model(self, model_id: str) -> dict[str, Any]:
        """Show a model; every id that starts with `claude-` is one."""
        if not model_id.startswith("claude-"):
            raise NotFoundError(f"model: {model_id}")
        return models.model_info(model_id)

    def usage(self, *, now: float) -> dict[str, int]:
        """Show what was accepted and what was billed by now."""
        self._settle_all(now=now)
        return self._tally.show()

    def requests(self, batch_id: str | None = None) -> Iterator[ReceivedRequest]:
        """Yield the requests of one batch or of all, in the order they were received."""
        batches = [self._find(batch_id)] if batch_id else [*self._batches.values()]
        return (_received(batch.id, row) for batch in batches for row in batch.rows)

    def _accept(self, event: Created, requests: Iterable[Request]) -> Batch:
        self._tally.batches += 1
        rows = [Row(request.custom_id, request.params, self._tally.receive(request.custom_id)) for request in requests]
        batch = self._batches[event.batch_id] = accept(event, rows)
        return batch

    def _show(self, batch: Batch, caller: Caller) -> MessageBatch:
        return show(batch, base_url=caller.base_url, now=caller.now)

    def _change(self, event: Canceled | Ended | Deleted) -> None:
        batch = self._batches[event.batch_id]
        match event:
            case Canceled():
                self._batches[batch.id] = replace(batch, cancel_initiated_at=event.at)
            case Ended():
                self._batches[batch.id] = replace(batch, ending=Ending(event.at, event.unfinished, event.done))
            case Deleted():
                self._settle(batch, now=batch.created_at)
                del self._batches[batch.id]

    def _find(self, batch_id: str) -> Batch:
        if batch_id not in self._batches:
            raise NotFoundError(NO_BATCH.format(batch_id=batch_id))
        return self._batches[batch_id]

    def _look(self, batch_id: str, caller: Caller) -> Batch:
        batch = self._find(batch_id)
        if batch.workspace != caller.workspace:
            raise NotFoundError(NO_BATCH.format(batch_id=batch_id))
        return self._settle(batch, now=caller.now)

    def _settle(self, before: Batch, *, now: float) -> Batch:
        batch = settle(before, answering=self._answering, batch_seconds=self._batch_seconds, now=now)
        if batch is not before:
            if batch.ending and not before.ending:
                self._journal.record(Ended(batch.id, batch.ending.at, batch.ending.unfinished, batch.ending.done))
            self._batches[batch.id] = batch
            self._tally.bill(batch.rows, batch.outcomes)
        return batch

    def _settle_all(self, *, now: float) -> Sequence[Batch]:
        return [self._settle(batch, now=now) for batch in [*self._batches.values()]]

    def _check_queue(self, requests: int, *, now: float) -> None:
        if self._max_queued_requests is None:
            return
        batches = self._settle_all(now=now)
        queued = sum(batch.counts.processing for batch in batches)
        if queued + requests > self._max_queued_requests:
            message = f"{queued} requests are processing; {requests} more exceed {self._max_queued_requests}"
            raise ApiError("rate_limit_error", message, retry_after=self._seconds_to_end(batches, now=now))

    def _seconds_to_end(self, batches: Iterable[Batch], *, now: float) -> int:
        ends = [batch.ends_at(self._batch_seconds) for batch in batches if batch.status != "ended"]
        return max(1, ceil(min(ends, default=now) - now))


def _received(batch_id: str, row: Row) -> ReceivedRequest:
    return ReceivedRequest(batch_id, row.custom_id, row.attempt, bytes(row.params))
