"""The messages of a request: the conversation so far, and the turn that the prompt makes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from claude_pipeline.caching import Block, text_block
from claude_pipeline.conversations import MessagesSlot
from claude_pipeline.errors import InputError
from claude_pipeline.media import MediaSlot
from claude_pipeline.prompts import Part, TextSlot
from claude_pipeline.templates import Template
from claude_pipeline.values import to_json


@dataclass(frozen=True, slots=True)
class Turns:
    """What a row says.

    Attributes:
        folder: Where relative paths begin.
        cache: What marks the prompt's fixed beginning, if anything does.
    """

    prompt: Template | None
    messages_column: str | None
    images: Sequence[str]
    documents: Sequence[str]
    folder: str
    skip_null: bool
    cache: Block | None

    def check(self, schema: pa.Schema, *, source: str) -> None:
        """Make sure that there is something to say, and that the columns can be read.

        Raises:
            InputError: There is neither prompt nor conversation nor file, or a column's type will not do.
        """
        has_media = bool(self.images or self.documents)
        if self.prompt is None and self.messages_column is None and not has_media:
            raise InputError("Give one of prompt_column=, template=, template_file= and messages_column=.")
        if self.prompt is None and self.messages_column is not None and has_media:
            raise InputError("images= and documents= go into the prompt's turn. Give template= as well.")
        for column in {*self.images} & {*self.documents}:
            raise InputError(f"Column {column!r} is in both images= and documents=. Name it once.")
        for slot in self.parts():
            if isinstance(slot, MediaSlot | MessagesSlot):
                slot.check_types(schema, source=source)

    def parts(self) -> Iterator[Part]:
        """Yield the messages, without the brackets around them."""
        if self.messages_column is not None:
            yield MessagesSlot(self.messages_column, is_followed=self._has_turn)
        if self._has_turn:
            yield b'{"role":"user","content":'
            yield from self._content()
            yield b"}"

    @property
    def _has_turn(self) -> bool:
        return self.prompt is not None or bool(self.images or self.documents)

    def _content(self) -> Iterator[Part]:
        beginning, rest = self._split()
        has_media = bool(self.images or self.documents)
        if rest and not (beginning or has_media):
            yield TextSlot(rest)
            return
        yield b"[" + beginning + (b"," if beginning and rest else b"")
        if has_media:
            between = (b"," if beginning and not rest else b"", b"," if rest else b"")
            yield MediaSlot(tuple(self.images), tuple(self.documents), self.folder, self.skip_null, *between)
        if rest:
            yield from (b'{"type":"text","text":', TextSlot(rest), b"}")
        yield b"]"

    def _split(self) -> tuple[bytes, Template | None]:
        """Split off the prompt's fixed beginning as a block of its own, if it is to be cached."""
        if self.prompt is None or self.cache is None or self.messages_column is not None:
            return b"", self.prompt
        text, rest = self.prompt.split_beginning()
        if not text.strip():
            return b"", self.prompt
        return to_json("template", text_block(text, self.cache)), rest if rest.fields else None
