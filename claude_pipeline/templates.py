"""Templates: text in which braces around a column's name are a field."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from claude_pipeline.errors import InputError, MissingColumnError, UnknownFieldError
from claude_pipeline.values import Unsendable, check_unicode, is_text, read_texts, render_column, shorten

_BRACES = re.compile(r"\{([^{}]*)\}")

BLANK = Unsendable("missing_prompt", "The prompt is blank, so it was not sent.")


@dataclass(frozen=True, slots=True)
class Template:
    """Text with fields: `texts[0] fields[0] texts[1] … fields[-1] texts[-1]`.

    Attributes:
        fill_null: What stands for a null in a field; a row with a null is not sent if there is nothing.
        may_be_blank: Whether a row is sent whose fields are all blank, as in a system prompt.
    """

    texts: tuple[str, ...]
    fields: tuple[str, ...]
    fill_null: str | None = None
    may_be_blank: bool = False

    @classmethod
    def parse(
        cls, text: str, *, columns: Sequence[str], source: str, what: str = "The template", fill_null: str | None = None
    ) -> "Template":
        """Split a template at its fields.

        Braces around a column's name are a field. Around another bare name they are an error that shows the
        columns; every other brace is text, so JSON examples need no doubling.

        Raises:
            InputError: A bare name is no column, or the text is not valid Unicode.
        """
        check_unicode(what, text)
        texts, fields, end = [], [], 0
        for match in _BRACES.finditer(text):
            name = match[1]
            if name not in columns:
                if name.isidentifier():
                    raise UnknownFieldError(name, source=source, columns=columns, what=what)
                continue
            texts.append(text[end : match.start()])
            fields.append(name)
            end = match.end()
        return cls((*texts, text[end:]), tuple(fields), fill_null)

    @classmethod
    def of_column(cls, column: str, *, schema: pa.Schema, source: str, fill_null: str | None = None) -> "Template":
        """Make the template that is one text column and nothing else.

        Raises:
            InputError: There is no such column, or it is not text.
        """
        if column not in schema.names:
            raise MissingColumnError(column, source=source, columns=schema.names)
        kind = schema.field(column).type
        if not is_text(kind):
            raise InputError(
                f"The prompt column {column!r} of {source} is {kind}, not text. "
                f"Convert it to text, or write template='{{{column}}}' to print its values."
            )
        return cls(("", ""), (column,), fill_null)

    def check_types(self, schema: pa.Schema) -> None:
        """Make sure that every field's column can be printed.

        Raises:
            InputError: A column's type has no plain text, or a time zone is unknown; names the column.
        """
        for field in self.fields:
            render_column(pa.nulls(0, schema.field(field).type), field)

    def check_fields(self, *, columns: Sequence[str], source: str) -> None:
        """Make sure that the template has a field.

        Raises:
            InputError: It has none.
        """
        if not self.fields:
            raise InputError(
                f"The template {shorten(self.texts[0])!r} has no field, so every row would ask the same. "
                f"Put a column's name in braces, such as {{{columns[0]}}}; {source} has: {', '.join(columns)}."
            )

    def split_beginning(self) -> tuple[str, "Template"]:
        """Return the text before the first field, which all rows share, and the template of the rest."""
        return self.texts[0], Template(("", *self.texts[1:]), self.fields, self.fill_null)

    def fill(self, batch: pa.RecordBatch) -> Iterable[str | Unsendable]:
        """Return each row's text, or why the row has none."""
        if not self.fields:
            return [self.texts[0]] * batch.num_rows
        columns = [self._read(batch, field) for field in self.fields]
        if self.texts == ("", "") and not self.may_be_blank:
            return [BLANK if not text or (type(text) is str and text.isspace()) else text for text in columns[0]]
        return map(self._fill_row, zip(*columns, strict=True))

    def _read(self, batch: pa.RecordBatch, field: str) -> list[str | Unsendable | None]:
        cells = read_texts(batch.column(field), field)
        if self.fill_null is None:
            return cells
        return [self.fill_null if cell is None else cell for cell in cells]

    def _fill_row(self, cells: tuple[str | Unsendable | None, ...]) -> str | Unsendable:
        if not self.may_be_blank and all(map(_is_blank, cells)):
            return BLANK
        parts = [self.texts[0]]
        for field, cell, text in zip(self.fields, cells, self.texts[1:], strict=True):
            if cell is None:
                return missing_field(field)
            if isinstance(cell, Unsendable):
                return cell
            parts += (cell, text)
        return "".join(parts)


def _is_blank(cell: str | Unsendable | None) -> bool:
    return not cell or (isinstance(cell, str) and cell.isspace())


def missing_field(column: str) -> Unsendable:
    """Say that a row lacks a value that it needs."""
    return Unsendable("missing_field", f"Column {column!r} is null. It was not sent; fill it in the input.")
