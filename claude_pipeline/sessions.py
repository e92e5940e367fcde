"""Who acts: a client, and the account that it acts for in a store."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from claude_pipeline.batches import BatchesApi
from claude_pipeline.leases import new_owner
from claude_pipeline.store import Store

if TYPE_CHECKING:
    from anthropic import Anthropic

StorePath = str | os.PathLike[str] | None


@dataclass(frozen=True, slots=True)
class Session:
    """A client, the account that it acts for in a store, and the name of this process."""

    api: BatchesApi
    account: int
    owner: str

    @classmethod
    def start(cls, store: Store, client: "Anthropic") -> "Session":
        """Learn the account with one free call."""
        api = BatchesApi(client)
        return cls(api, store.ledger.account(api.account()), new_owner())


def existing_store(path: Path, ledger: str | None = None) -> Store | None:
    """Open a store if there is one; looking makes none."""
    return Store(path, ledger) if (path / "ledger.sqlite").exists() else None
