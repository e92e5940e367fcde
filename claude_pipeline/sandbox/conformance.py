"""A sandbox for the test suites of other clients: whatever id they make up is there."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from claude_pipeline.sandbox import models
from claude_pipeline.sandbox.api import Api
from claude_pipeline.sandbox.batches import Batch
from claude_pipeline.sandbox.journal import Created
from claude_pipeline.sandbox.outcomes import Caller
from claude_pipeline.sandbox.params import VERSIONS
from claude_pipeline.sandbox.requests import decode_batch

CURSORS: Final = frozenset({"after_id", "before_id"})
BODY: Final = (
    b'{"requests":[{"custom_id":"my-custom-id-1","params":{"model":"claude-opus-5-5","max_tokens":1024,'
    b'"messages":[{"role":"user","content":"Hello, world"}]}}]}'
)


class SeededApi(Api):
    """The API, where a batch that nobody created has one request and has just ended; a deleted one is back at once."""

    def list_batches(self, query: Mapping[str, str], caller: Caller) -> dict[str, Any]:
        """Show a page of batches; it begins at the newest where nothing has the cursor's id."""
        return super().list_batches(_without_unknown(query, self._batches), caller)

    def list_models(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Show a page of models; it begins at the first where nothing has the cursor's id."""
        return super().list_models(_without_unknown(query, models.IDS))

    def model(self, model_id: str) -> dict[str, Any]:
        """Show a model; every id is one."""
        return models.model_info(model_id)

    def _look(self, batch_id: str, caller: Caller) -> Batch:
        if batch_id not in self._batches:
            event = Created(batch_id, caller.now - self._batch_seconds, VERSIONS[-1], caller.workspace)
            self._journal.record(event, BODY)
            self._accept(event, decode_batch(BODY))
        return super()._look(batch_id, caller)


def _without_unknown(query: Mapping[str, str], ids: Iterable[str]) -> dict[str, str]:
    return {key: value for key, value in query.items() if key not in CURSORS or value in ids}
