"""Who acts: a client, and the account that it acts for in a store."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from claude_pipeline.batches import BatchesApi
from claude_pipeline.binding import check_absent
from claude_pipeline.leases import new_owner
from claude_pipeline.places import Place
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


def existing_store(path: Place, ledger: str | None = None) -> Store | None:
    """Open a store if there is one; looking makes none.

    Raises:
        StoreError: It cannot be opened, or there was one: its answers or its ledger are still there.
    """
    if Store.exists(path):
        return Store(path, ledger)
    check_absent(path, ledger)
    return None
