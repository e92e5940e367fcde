"""From what a user asks for to the form of a job's requests."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TypedDict, Unpack

import pyarrow as pa

from claude_pipeline.caching import Block, Cache, cache_control, cached, text_block
from claude_pipeline.errors import InputError, MissingColumnError
from claude_pipeline.keywords import nearest
from claude_pipeline.parameters import ParamSlot, check_betas
from claude_pipeline.prompts import Part, RequestForm, TextSlot, address_header
from claude_pipeline.schemas import read_schema, with_output_format
from claude_pipeline.templates import Template
from claude_pipeline.turns import Turns
from claude_pipeline.values import check_unicode, to_json

StrPath = str | os.PathLike[str]
System = Template | Sequence[Block] | None

_OWN = ("model", "max_tokens")
_TEXTS = ("prompt_column", "template", "messages_column", "fill_null", "salt", "salt_column")
_LISTS = ("images", "documents")
_MAPPINGS = {"params": "'stop_sequences': ['END']", "params_columns": "'max_tokens': 'limit'"}


class RequestOptions(TypedDict, total=False):
    """What makes a row a request: the same for `submit`, `estimate` and everything else that asks.

    Attributes:
        prompt_column: The text column that is the prompt.
        template: Text with column names in braces, instead of `prompt_column`.
        template_file: A UTF-8 file with such a template; one newline at its end is not part of it.
        messages_column: A column of conversations, each a list of `{role, content}`: an Arrow list of structs,
            JSON text or Python lists. The prompt, if there is one, is the next turn.
        images: Columns of images: bytes, a local path or a URL, or a list of these.
        documents: The same for documents: PDF or text.
        model: A model's id, such as `claude-haiku-4-5`.
        max_tokens: The longest answer, in tokens.
        system: The system prompt, which may have fields as a template has, or a list of the API's text blocks.
        system_file: A UTF-8 file with a system prompt.
        params: Any other parameter of the Messages API, by name.
        params_columns: Parameters that a row brings along: by name, the column. Where that is null, what holds for
            all rows takes its place.
        betas: Beta features of the API to ask with.
        cache: Cache the tools, the system prompt and the template's fixed beginning for "5m" or "1h".
        output_schema: What an answer must look like: a pydantic model, a dataclass, a JSON schema, names and types.
        fill_null: What stands for a null in a field. Without it a row with a null is not sent.
        salt: Any text; another one asks the same requests afresh.
        salt_column: The same, row by row: several samples of one prompt.
    """

    prompt_column: str | None
    template: str | None
    template_file: StrPath | None
    messages_column: str | None
    images: Sequence[str]
    documents: Sequence[str]
    model: str | None
    max_tokens: int | None
    system: str | Sequence[Block] | None
    system_file: StrPath | None
    params: Mapping[str, object] | None
    params_columns: Mapping[str, str] | None
    betas: Sequence[str]
    cache: Cache | None
    output_schema: object
    fill_null: str | None
    salt: str | None
    salt_column: str | None


def build_form(
    schema: pa.Schema, *, source: str, folder: StrPath = "", **options: Unpack[RequestOptions]
) -> RequestForm:
    """Fix what the requests of a job share, and where its rows differ.

    Top-level keys go in one order (`model`, `max_tokens`, `system`, the others by name, `messages`); nothing inside
    them is reordered.

    Args:
        schema: The columns of the input.
        source: What messages call the input.
        folder: Where relative paths of images and documents begin.
        **options: See `RequestOptions`.

    Raises:
        InputError: A column, a text or a parameter cannot become requests; names it.
        TypeError: There is no such argument.
    """
    _check_kinds(options)
    asked = _Asked(schema, source, options)
    turns = asked.turns(os.fspath(folder))
    turns.check(schema, source=source)
    parts = tuple(_merge([b"{", *asked.members(), b'"messages":[', *turns.parts(), b"]}"]))
    betas = check_betas(options.get("betas") or ())
    salt, salt_column = asked.salt()
    form = RequestForm(address_header(betas, salt), betas, salt_column, parts)
    if not form.columns and turns.prompt:
        turns.prompt.check_fields(columns=schema.names, source=source)
    if asked.cache and not any(b'"cache_control":' in part for part in parts if isinstance(part, bytes)):
        raise InputError(
            "cache= has nothing to hold: there are no tools, no system prompt that all rows share, and the template "
            "begins with a field. Put first what all rows share, or leave cache= out."
        )
    return form


def _merge(parts: Iterable[Part]) -> Iterator[Part]:
    """Join bytes that stand side by side."""
    for is_shared, group in groupby(parts, key=lambda part: isinstance(part, bytes)):
        if is_shared:
            yield b"".join(part for part in group if isinstance(part, bytes))
        else:
            yield from group


def _check_kinds(options: RequestOptions) -> None:
    """Refuse what is none of the arguments, and what is of another kind than it must be.

    A misspelled argument would be passed over, and a text for a list taken for its letters.
    """
    for key in sorted(options.keys() - RequestOptions.__optional_keys__):
        raise TypeError(f"There is no argument {key!r}.{nearest(key, RequestOptions.__optional_keys__)}")
    for key in _TEXTS:
        value = options.get(key)
        if not isinstance(value, str | None):
            raise InputError(f"{key} is {value!r}, which is no text. Write {key}={str(value)!r}.")
    for key in _LISTS:
        value = options.get(key)
        if isinstance(value, str):
            raise InputError(f"{key} is the text {value!r}. Give a list: {key}=[{value!r}].")
    for key, example in _MAPPINGS.items():
        value = options.get(key)
        if not isinstance(value, Mapping | None):
            raise InputError(f"{key} is {value!r}. Give names and their values: {key}={{{example}}}.")


class _Asked:
    """What a user asks for, against the table that it is asked of."""

    def __init__(self, schema: pa.Schema, source: str, options: RequestOptions) -> None:
        self._schema, self._source, self._options = schema, source, options
        self._fill_null = options.get("fill_null")
        check_unicode("fill_null", self._fill_null or "")
        self.cache = cache_control(options.get("cache"))
        self._system = self._parse_system()

    def turns(self, folder: str) -> Turns:
        """Put together what a row says."""
        options = self._options
        shares_system = not (isinstance(self._system, Template) and self._system.fields)
        return Turns(
            self._parse_prompt(),
            options.get("messages_column"),
            options.get("images") or (),
            options.get("documents") or (),
            folder,
            skip_null=self._fill_null is not None,
            cache=self.cache if shares_system else None,
        )

    def _parse_prompt(self) -> Template | None:
        options = self._options
        column, text, file = options.get("prompt_column"), options.get("template"), options.get("template_file")
        if sum(value is not None for value in (column, text, file)) > 1:
            raise InputError("Give one of prompt_column=, template= and template_file=, and only one.")
        if column is not None:
            return Template.of_column(column, schema=self._schema, source=self._source, fill_null=self._fill_null)
        text = text if file is None else _read("template", file)
        return None if text is None else self._parse(text, "The template")

    def _parse_system(self) -> System:
        text, file = self._options.get("system"), self._options.get("system_file")
        if text is not None and file is not None:
            raise InputError("Give one of system= and system_file=, and only one.")
        text = text if file is None else _read("system prompt", file)
        if not isinstance(text, str):
            return text or None
        return replace(self._parse(text, "The system prompt"), may_be_blank=True)

    def _parse(self, text: str, what: str) -> Template:
        columns = self._schema.names
        template = Template.parse(text, columns=columns, source=self._source, what=what, fill_null=self._fill_null)
        template.check_types(self._schema)
        return template

    def salt(self) -> tuple[str | None, str | None]:
        """Return the salt of all rows and the column that holds that of each; one at most is given."""
        salt, column = self._options.get("salt"), self._options.get("salt_column")
        if salt is not None and column is not None:
            raise InputError("Give one of salt= and salt_column=, and only one.")
        if column is not None:
            self._check_column(column)
            Template(("", ""), (column,)).check_types(self._schema)
        check_unicode("salt", salt or "")
        return salt, column

    def members(self) -> Iterator[Part]:
        """Yield every parameter but the messages, each with a comma behind it."""
        params, columns = dict(self._options.get("params") or {}), self._options.get("params_columns") or {}
        if (schema := self._options.get("output_schema")) is not None:
            params = with_output_format(params, read_schema(schema))
        own = {key: self._options.get(key) for key in _OWN}
        _check_limits(own, columns)
        if self.cache and params.get("tools"):
            params["tools"] = cached(_blocks("tools", params["tools"]), self.cache)
        yield from (self._member(key, own[key], columns) for key in _OWN)
        yield from self._system_member()
        for key in sorted({*params, *columns} - own.keys()):
            yield self._member(key, params.get(key), columns, known=key in params)

    def _member(self, key: str, value: object, columns: Mapping[str, str], *, known: bool = False) -> Part:
        shared = _member(key, value) if known or value is not None else b""
        if key not in columns:
            return shared
        self._check_column(columns[key])
        slot = ParamSlot(key, columns[key], None if key in _OWN and not shared else shared)
        slot.check_types(self._schema, source=self._source)
        return slot

    def _system_member(self) -> Iterator[Part]:
        match self._system:
            case None:
                return
            case Template(texts=(text,)) if self.cache and text.strip():
                yield _member("system", [text_block(text, self.cache)])
            case Template(texts=(text,)):
                yield _member("system", text)
            case Template() as template:
                yield from (b'"system":', TextSlot(template), b",")
            case blocks:
                yield _member("system", cached(_blocks("system", blocks), self.cache))

    def _check_column(self, column: str) -> None:
        if column not in self._schema.names:
            raise MissingColumnError(column, source=self._source, columns=self._schema.names)


def _read(what: str, path: object) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8-sig").removesuffix("\n")  # type: ignore[arg-type]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read the {what} file {path}: {error}.") from error


def _member(key: str, value: object) -> bytes:
    return to_json(key, key) + b":" + to_json(key, value) + b","


def _blocks(key: str, value: object) -> Sequence[Block]:
    if not isinstance(value, Sequence) or not all(isinstance(block, Mapping) for block in value):
        hint = (
            "text, or a list of the API's text blocks" if key == "system" else "a list of objects, as the API takes it"
        )
        raise InputError(f"{key} is {value!r}. Give {hint}.")
    return value


def _check_limits(own: Mapping[str, object], columns: Mapping[str, str]) -> None:
    model, max_tokens = own["model"], own["max_tokens"]
    if not (isinstance(model, str) and model.strip()) and not (model is None and "model" in columns):
        raise InputError(f"model is {model!r}. Give a model's id, such as model='claude-haiku-4-5'.")
    if max_tokens is None and "max_tokens" in columns:
        return
    if not isinstance(max_tokens, int) or isinstance(max_tokens, bool) or max_tokens < 1:
        raise InputError(f"max_tokens is {max_tokens!r}. Give a whole number of at least 1.")
