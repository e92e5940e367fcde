"""Who takes part, up to which size, and how it is called."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Final

from .environments import interpreter
from .measure import python
from .task import Task

PEERS: Final = Path(__file__).parent / "peers"
LARGEST_BATCH: Final = 100_000
EVERY_SIZE: Final = 10**9


@dataclass(frozen=True, slots=True)
class Contestant:
    """Someone who turns a table of prompts into a table of answers; `column` is where it puts them."""

    name: str
    most_rows: int = EVERY_SIZE
    column: str = "response"

    def command(self, source: Path, out: Path, url: str, folder: Path, task: Task) -> list[str]:
        """Spell its command."""
        return python(f"benchmarks.{self.name}", source, out, url, folder / "store", task)


@dataclass(frozen=True, slots=True)
class Peer(Contestant):
    """A package of somebody else's, in an environment of its own.

    The SDK is the one that we run with, unless the peer sends what that one's API version refuses.
    """

    script: str = ""
    requirements: Sequence[str] = ()
    sdk: str | None = None
    python_version: str = "3.11"

    def command(self, source: Path, out: Path, _url: str, folder: Path, _task: Task) -> list[str]:
        """Spell its command; the server stands in the environment.

        Raises:
            UnavailableError: It does not install here.
        """
        return [str(_interpreter(self)), str(PEERS / f"{self.script}.py"), str(source), str(out), str(folder)]


@cache
def _interpreter(peer: Peer) -> Path:
    usual = [f"{name}=={version(name)}" for name in ("pandas", "pyarrow")]
    sdk = peer.sdk or f"anthropic=={version('anthropic')}"
    return interpreter(peer.name, (*peer.requirements, sdk, *usual), version=peer.python_version)


OURS: Final = Contestant("ours")
LOOP: Final = Contestant("loop", LARGEST_BATCH)
FLOOR: Final = Contestant("floor")
OLDER_SDK: Final = "anthropic==0.125.0"  # they send a temperature, which later API versions refuse
PEER_LIST: Final = (
    Peer("loom-batch", LARGEST_BATCH, "llm_response", "loom_batch", ("loom-batch==0.7.0",)),
    Peer("llm-batch-py", LARGEST_BATCH, "response", "llm_batch", ("llm-batch-py==0.1.8",)),
    Peer("steadybatch", LARGEST_BATCH, "response", "steadybatch_runner", ("steadybatch==0.2.1",)),
    Peer("batchata", LARGEST_BATCH, "response", "batchata_batch", ("batchata==0.4.7",), OLDER_SDK, "3.12"),
    Peer("batchlane", LARGEST_BATCH, "response", "batchlane_map", ("batchlane==0.2.0",)),
    Peer(
        "dagster-community-components",
        LARGEST_BATCH,
        "response",
        "dagster_component",
        ("dagster-community-components==0.10.120", f"dagster=={version('dagster')}"),
        OLDER_SDK,
    ),
)
CONTESTANTS: Final[dict[str, Contestant]] = {each.name: each for each in (OURS, LOOP, FLOOR, *PEER_LIST)}


def is_peer(name: str) -> bool:
    """Say whether a contestant is somebody else's package."""
    return isinstance(CONTESTANTS.get(name), Peer)
