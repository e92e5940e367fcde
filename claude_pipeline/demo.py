"""The main job on a real table that every Python carries: its own standard library."""

import importlib
import inspect
import pkgutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import ModuleType, NoneType
from typing import NamedTuple

import pyarrow as pa

import claude_pipeline as cp
from claude_pipeline.arrays import make_record_batch

TEMPLATE = (
    "{docstring}\n\n"
    "This is what Python's standard library says of {name}{signature}. Summarize in one plain sentence what it does."
)
MODEL = "claude-haiku-4-5"
MAX_TOKENS = 100

_ALTERS_THE_TERMINAL = {"readline", "rlcompleter"}
_OPENS_SOMETHING = {"antigravity", "this", "turtle", "turtledemo"}
_REPLACED_BY_SETUPTOOLS = {"distutils"}
_NOT_FOR_READERS = {"ensurepip", "idlelib", "lib2to3", "test", "tests", "tkinter"}
_NOT_IMPORTED = _ALTERS_THE_TERMINAL | _OPENS_SOMETHING | _REPLACED_BY_SETUPTOOLS | _NOT_FOR_READERS


class Entry(NamedTuple):
    """One documented function, class or method, as its module shows it."""

    module: str
    name: str
    signature: str
    docstring: str


def standard_library(rows: int | None = None) -> pa.Table:
    """Collect Python's documented functions, classes and methods.

    A name that two modules show stands there twice, so the table has real duplicates.

    Args:
        rows: How many rows at most, spread evenly over the library; None for all of them.

    Returns:
        A table of the text columns `module`, `name`, `signature`, `docstring`, in a fixed order.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        entries = [entry for module in _modules() for entry in _entries(module)]
    if rows is not None and rows < len(entries):
        entries = [entries[index * len(entries) // rows] for index in range(rows)]
    schema = pa.schema([(field, pa.string()) for field in Entry._fields])
    return pa.Table.from_batches([make_record_batch(entries, schema)])


def prompts(table: pa.Table) -> Iterator[str]:
    """Render the prompts that `TEMPLATE` makes of the table, to estimate from."""
    for row in table.to_pylist():
        yield TEMPLATE.format_map(row)


def ask(table: pa.Table, *, store: str | None, base_url: str | None) -> "cp.Job":
    """Submit the table's prompts, in three batches however small it is."""
    return cp.submit(
        table,
        template=TEMPLATE,
        model=MODEL,
        max_tokens=MAX_TOKENS,
        name="demo",
        max_batch_requests=max(1, table.num_rows // 3),
        store=store,
        ledger="sqlite",
        base_url=base_url,
    )


def _modules() -> Iterator[ModuleType]:
    for name in sorted(sys.stdlib_module_names):
        yield from _walk(name)


def _walk(name: str) -> Iterator[ModuleType]:
    last = name.rpartition(".")[2]
    if last.startswith("_") or last in _NOT_IMPORTED or (module := _imported(name)) is None:
        return
    yield module
    for found in pkgutil.iter_modules(getattr(module, "__path__", ()), f"{name}."):
        yield from _walk(found.name)


def _imported(name: str) -> ModuleType | None:
    # Many modules exist on one platform only, and each fails in its own way elsewhere.
    with suppress(Exception):
        return importlib.import_module(name)
    return None


def _entries(module: ModuleType) -> Iterator[Entry]:
    for name in _public(module):
        value = getattr(module, name, None)
        if inspect.isclass(value) or inspect.isroutine(value):
            yield from _entry(module.__name__, name, value)
        if inspect.isclass(value) and value.__module__ == module.__name__:
            for method in sorted(vars(value)):
                if not method.startswith("_") and inspect.isroutine(member := getattr(value, method, None)):
                    yield from _entry(module.__name__, f"{name}.{method}", member)


def _public(module: ModuleType) -> list[str]:
    declared = getattr(module, "__all__", None)
    if declared is not None:
        return sorted(declared)
    return sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    )


def _entry(module: str, name: str, value: Callable[..., object]) -> Iterator[Entry]:
    docstring = value.__doc__
    if isinstance(docstring, str) and docstring.strip():
        yield Entry(module, name, _signature(value), inspect.cleandoc(docstring))


def _signature(value: Callable[..., object]) -> str:
    # Besides what has no signature, annotations that cannot be resolved fail in many ways.
    with suppress(Exception):
        signature = inspect.signature(value)
        shown = [parameter.replace(default=_shown(parameter.default)) for parameter in signature.parameters.values()]
        return str(signature.replace(parameters=shown))
    return "(...)"


def _shown(default: object) -> object:
    # A default may be a value of this machine: one in cgi is the whole environment, keys and all.
    harmless = type(default) in (bool, int, float, NoneType) or (type(default) in (str, bytes, tuple) and not default)
    return default if harmless or default is inspect.Parameter.empty else _Ellipsis()


class _Ellipsis:
    def __repr__(self) -> str:
        return "..."
