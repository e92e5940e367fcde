"""What the builders of assets take: checked, and turned into what Dagster takes."""

import inspect
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import dagster as dg

import claude_pipeline as cp
from claude_pipeline.dagster.partitions import partition_file
from claude_pipeline.keywords import nearest
from claude_pipeline.places import Place, is_url, remote_path

AssetKeyLike = str | Sequence[str] | dg.AssetKey

_CODE_REFERENCES = "dagster/code_references"


def check_request(request: Mapping[str, Any], taken: Collection[str], *, builder: Callable[..., object]) -> None:
    """Make sure that a request has what it needs, and nothing else.

    Raises:
        TypeError: There is no such argument, or one is missing.
    """
    for name in request.keys() - taken:
        hint = nearest(name, {*taken, *inspect.signature(builder).parameters})
        hint = hint or f" Of a request it takes: {', '.join(sorted(taken))}."
        raise TypeError(f"{builder.__name__} has no argument {name!r}.{hint}")
    for name in ("model", "max_tokens"):
        if name not in request and name not in (request.get("params_columns") or ()):
            raise TypeError(f"{builder.__name__} needs the argument {name!r}.")


def checked_output(path: str | Path | None, *, is_folder: bool = False) -> Place | None:
    """Make sure that answers can be written there, as far as this machine can tell. Errors: OutputError."""
    if path is None:
        return None
    if not is_folder and not str(path).lower().endswith(".parquet"):
        raise cp.OutputError(
            f"The answers of an asset are Parquet, but output_path is {str(path)!r}. Name a file that ends in .parquet."
        )
    if is_url(path):  # nothing is asked of a server while definitions load
        return remote_path(path)
    return Path(cp.check_output(Path(path) / partition_file("any"))).parent if is_folder else cp.check_output(path)


def kinds_of(kinds: Sequence[str], io_manager_key: str | None) -> set[str]:
    """Return the kinds of answers."""
    return {"claude", *(kinds or (["parquet"] if io_manager_key is None else ["pandas"]))}


def references(caller: FrameType) -> dict[str, Any]:
    """Say where the definitions were asked for; of a component Dagster knows that itself."""
    if caller.f_globals.get("__name__", "").startswith("claude_pipeline."):
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        place = dg.LocalFileCodeReference(file_path=caller.f_code.co_filename, line_number=caller.f_lineno)
        return {_CODE_REFERENCES: dg.CodeReferencesMetadataValue(code_references=[place])}
