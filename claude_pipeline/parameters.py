"""Parameters of the Messages API: what all rows share, and what a row brings along."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pyarrow as pa

from claude_pipeline.cells import check_json, parse_json, plain_type, read_cells
from claude_pipeline.errors import InputError, MissingColumnError
from claude_pipeline.templates import missing_field
from claude_pipeline.values import Cell, Unsendable, is_text, shorten, to_json

if TYPE_CHECKING:
    from anthropic import Anthropic

_OWN_ARGUMENTS = {
    key: f", which has an argument of its own: write {key}=… instead."
    for key in ("model", "max_tokens", "system", "betas")
}
_ROW_ARGUMENTS = ("model", "max_tokens")
_NEVER_SENT = {
    "messages": ": the messages come from the rows; use template=, prompt_column= or messages_column=.",
    "stream": ": whether answers are streamed is the choice of the function; leave it out.",
    "speed": ": batches have one speed; leave it out.",
    "store": ": batches do not take it; leave it out.",
}
_SAMPLING = ("temperature", "top_k", "top_p")
_WITHOUT_SAMPLING = "2026-10-21"
_NO_SAMPLING = (
    f", which the API does not take since version {_WITHOUT_SAMPLING}. Leave it out, or pass "
    "client=anthropic.Anthropic(default_headers={'anthropic-version': '2023-06-01'})."
)
_WITHOUT_BATCHES = ("Bedrock", "Vertex", "Foundry")
_EXACT_FLOATS = 1 << 53
_BETA = re.compile(r"[!-+\--~]+")  # what may stand in a header, but for space and comma


_LIMIT = re.compile(rb'"max_tokens":([0-9]+),')


def raise_limit(members: bytes, times: int) -> tuple[bytes, bool]:
    """Multiply the first `max_tokens` among members written as JSON; tell whether there is one."""
    raised, found = _LIMIT.subn(lambda limit: b'"max_tokens":%d,' % (int(limit[1]) * times), members, count=1)
    return raised, found > 0


# What was written before there was a factor stays as it is, and with it the ids of jobs.
class ParamSlot(msgspec.Struct, frozen=True, tag="param", omit_defaults=True):
    """Where a row's own value of a parameter goes, as `"key":value,`.

    Attributes:
        default: The whole member as JSON with its comma, for rows whose value is null; None if the row then cannot
            be sent; empty if the parameter is then left out.
        times: What a row's own `max_tokens` is multiplied with.
    """

    key: str
    column: str
    default: bytes | None
    times: int = 1

    @property
    def columns(self) -> tuple[str, ...]:
        """Name the columns that it reads."""
        return (self.column,)

    def check_types(self, schema: pa.Schema, *, source: str) -> None:
        """Make sure that the column's values have JSON.

        Raises:
            InputError: There is no such column, or its type has no JSON.
        """
        if self.column not in schema.names:
            raise MissingColumnError(self.column, source=source, columns=schema.names)
        kind = schema.field(self.column).type
        check_json(kind, self.column)
        expected = _find_type_fault(self.key, plain_type(kind))
        if expected:
            raise InputError(f"Column {self.column!r} of {source} is {kind}, but {self.key} {expected}. Convert it.")

    def raised(self, times: int) -> "ParamSlot":
        """Return the slot of a limit so many times as large."""
        default = self.default and raise_limit(self.default, times)[0]
        return msgspec.structs.replace(self, default=default, times=times)

    def fill(self, batch: pa.RecordBatch) -> Iterator[Cell]:
        """Yield each row's member, or why the row has none; an empty text is null, for a CSV has no other."""
        nothing = missing_field(self.column) if self.default is None else self.default
        member = to_json(self.key, self.key) + b":"
        for cell in read_cells(batch.column(self.column), self.column):
            if cell is None or cell == "":
                yield nothing
            elif isinstance(cell, Unsendable):
                yield cell
            else:
                yield self._write(member, self._read(cell))

    def _read(self, cell: object) -> object:
        """Take text as JSON if it is, for a CSV has no other numbers, and whole floats as what they were."""
        value = cell
        if isinstance(cell, str) and self.key != "model":
            with suppress(ValueError, RecursionError):
                value = parse_json(cell)
        # pandas makes floats of integers as soon as one is null.
        if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT_FLOATS:
            value = int(value)
        return value * self.times if self.times > 1 and isinstance(value, int) else value

    def _write(self, member: bytes, value: object) -> Cell:
        way_out = _find_fault(self.key, value)
        if way_out:
            return self._refuse(value, way_out)
        try:
            return member + to_json(self.key, value) + b","
        except (InputError, RecursionError):
            return self._refuse(value, "Give a plain JSON value")

    def _refuse(self, value: object, way_out: str) -> Unsendable:
        shown = shorten(repr(value))
        return Unsendable("invalid_parameter", f"Column {self.column!r} has {shown} for {self.key}. {way_out}.")


def _find_type_fault(key: str, kind: pa.DataType) -> str | None:
    """Say what a column of values must be, if it is not."""
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if key == "model" and not is_text(kind):
        return "is text"
    if key == "max_tokens" and not (is_number or is_text(kind)):
        return "is a whole number"
    return None


def _find_fault(key: str, value: object) -> str | None:
    """Say what a row's value must be, if it is not."""
    if key == "model" and not (isinstance(value, str) and value.strip()):
        return "Give a model's id, such as claude-haiku-4-5"
    if key == "max_tokens" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        return "Give a whole number of at least 1"
    return None


# What all rows share


def check_params(client: "Anthropic | None", request: Mapping[str, Any]) -> None:
    """Refuse at once what the API would refuse in every row, hours later.

    Args:
        client: Whose API version decides about sampling parameters; without one they pass.
        request: What was asked for: `params`, `params_columns` and `betas`, if given.

    Raises:
        InputError: A key is none that a batch takes; names it, and the nearest that there is.
    """
    keys = {name: request.get(name) or () for name in ("params", "params_columns")}
    if not any(keys.values()):
        return
    has_sampling = client is None or _has_sampling(client)
    known = _KnownKeys.of_sdk(has_betas=bool(request.get("betas")), has_sampling=has_sampling)
    for key in keys["params"]:
        known.check(key, "params")
    for key in keys["params_columns"]:
        if key not in _ROW_ARGUMENTS:
            known.check(key, "params_columns")


def check_client(client: object) -> None:
    """Refuse a client that has no Message Batches, or that is asynchronous.

    Raises:
        InputError: It is none to send batches with; names its class.
    """
    name = type(client).__name__
    names = [kind.__name__ for kind in type(client).__mro__]
    way_out = "Pass anthropic.Anthropic()."
    if any(platform in kind for kind in names for platform in _WITHOUT_BATCHES):
        raise InputError(f"The client is {name}, and there are no Message Batches there. {way_out}")
    if any(kind.startswith("Async") for kind in names):
        raise InputError(f"The client is {name}, which is asynchronous. {way_out}")
    if "Anthropic" not in names:
        raise InputError(f"The client is of type {name}, which is none of the SDK's. {way_out}")


def check_betas(betas: Iterable[str]) -> tuple[str, ...]:
    """Return the names of beta features in their order; they travel in one header, with commas in between.

    Raises:
        InputError: A name cannot be a part of such a header, or stands twice.
    """
    if isinstance(betas, str):
        raise InputError(f"betas is the text {betas!r}. Give a list: betas=[{betas!r}].")
    names = list(betas)
    for name in names:
        if not isinstance(name, str) or not _BETA.fullmatch(name):
            raise InputError(
                f"betas has {name!r}. Give each feature's name alone, such as betas=['output-300k-2026-03-24']."
            )
        if names.count(name) > 1:
            raise InputError(f"betas has {name!r} twice. Name it once.")
    return tuple(sorted(names))


def _has_sampling(client: "Anthropic") -> bool:
    """Tell whether the client speaks a version of the API that has sampling parameters."""
    headers = client.default_headers.items()
    return any(name.lower() == "anthropic-version" and str(value) < _WITHOUT_SAMPLING for name, value in headers)


class _KnownKeys(NamedTuple):
    """The parameters that the SDK knows, and what else decides whether one may be sent.

    Attributes:
        headers: Those that the SDK sends as headers.
    """

    stable: frozenset[str]
    beta: frozenset[str]
    headers: frozenset[str]
    has_betas: bool
    has_sampling: bool

    @classmethod
    def of_sdk(cls, *, has_betas: bool, has_sampling: bool) -> "_KnownKeys":
        """Read the keys off the types of the SDK that is installed."""
        from anthropic.types import message_create_params as stable  # noqa: PLC0415  slow; who has a client has it
        from anthropic.types.beta import message_create_params as beta  # noqa: PLC0415  as above
        from anthropic.types.beta.messages import batch_create_params as batch  # noqa: PLC0415  as above

        return cls(
            frozenset(stable.MessageCreateParamsBase.__annotations__),
            frozenset(beta.MessageCreateParamsBase.__annotations__),
            frozenset(batch.BatchCreateParams.__annotations__) - {"requests"},  # whatever else is there is a header
            has_betas,
            has_sampling,
        )

    def check(self, key: str, argument: str) -> None:
        """Make sure that a batch takes a parameter; the argument is what it was given in."""
        fault = self._find_fault(key)
        if fault:
            raise InputError(f"{argument} has {key!r}{fault}")

    def _find_fault(self, key: str) -> str | None:
        elsewhere = _OWN_ARGUMENTS.get(key) or _NEVER_SENT.get(key)
        if elsewhere:
            return elsewhere
        if key in _SAMPLING:
            return None if self.has_sampling else _NO_SAMPLING
        if key in self.headers:
            header = f"anthropic-{key.replace('_', '-')}"
            return f", which is a header. Set it on the client: anthropic.Anthropic(default_headers={{{header!r}: …}})."
        if key not in self.stable | self.beta:
            return self._suggest(key)
        if key not in self.stable and not self.has_betas:
            return ", which is a beta feature. Name the feature as well: betas=[…]."
        return None

    def _suggest(self, key: str) -> str:
        names = sorted((self.stable | self.beta | {*_OWN_ARGUMENTS}) - self.headers - _NEVER_SENT.keys())
        nearest = get_close_matches(str(key), names, n=1, cutoff=0.5)
        hint = f"Did you mean {nearest[0]!r}?" if nearest else f"There are: {', '.join(names)}."
        return f", which the SDK does not know. {hint} If it is new, upgrade: pip install -U anthropic"
