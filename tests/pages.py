"""What a reader of README and docs sees, as Markdown has it: blocks of code, links, headings, tables."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parent.parent
PAGES = {
    path.relative_to(ROOT).as_posix(): path for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}
MARKDOWN = MarkdownIt("commonmark").enable("table")
_NOT_RUN = re.compile(r"<!-- not run: (.+?) -->", re.DOTALL)
_OF_SHELL = {"|", "||", "&", "&&", ";", "<", ">", ">>", "(", ")"}


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code.

    Attributes:
        line: The line of the page that its text begins on.
        output: What the page shows as its output, if that is a block of its own behind it.
        not_run: Why it is not run, as a comment before it says that GitHub does not show.
    """

    page: str
    line: int
    language: str
    text: str
    output: str | None = None
    not_run: str | None = None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True, slots=True)
class Command:
    """A command of a console, and what the page shows as its output."""

    line: str
    output: str

    @property
    def words(self) -> list[str] | None:
        """The words of a command of ours; None if it takes a shell, or another program."""
        words = [*shlex.shlex(self.line, posix=True, punctuation_chars=True)] if "`" not in self.line else []
        if not words or words[0] != "claude-pipeline" or _OF_SHELL & {*words} or "$" in self.line:
            return None
        return shlex.split(self.line, comments=True)[1:]


def read(page: str) -> str:
    return PAGES[page].read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """Return the blocks of a page, each with the output that is shown behind it."""
    found: list[Block] = []
    reason, shows_output = None, False
    for token in MARKDOWN.parse(read(page)):
        if token.type == "html_block" and (said := _NOT_RUN.search(token.content)):
            reason = said[1]
        elif token.type == "heading_open":
            shows_output = False
        elif token.type == "fence" and token.info == "text" and shows_output and not reason:
            last = found.pop()
            found.append(Block(last.page, last.line, last.language, last.text, token.content, last.not_run))
            shows_output = False
        elif token.type == "fence":
            line = (token.map or [0])[0] + 2
            found.append(Block(page, line, token.info, token.content, not_run=reason))
            reason, shows_output = None, token.info in {"python", "console"}
    return found


def commands(block: Block) -> Iterator[Command]:
    """Yield the commands of a console block, each with what is shown below it."""
    text = f"{block.text.rstrip()}\n{block.output or ''}".replace("\\\n", "")
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        line, _, output = part.partition("\n")
        yield Command(re.sub(r" {2,}", " ", line), output)


def tokens(page: str) -> Iterator[Token]:
    for token in MARKDOWN.parse(read(page)):
        yield token
        yield from token.children or ()


def links(page: str) -> list[str]:
    """Return what a page links to and shows."""
    wanted = {"link_open": "href", "image": "src"}
    return [str(token.attrs[wanted[token.type]]) for token in tokens(page) if token.type in wanted]


def anchors(page: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    parsed, found = MARKDOWN.parse(read(page)), []
    for opened, inline in pairwise(parsed):
        if opened.type == "heading_open":
            words = "".join(child.content for child in inline.children or ()).lower()
            anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
            found.append(f"{anchor}-{found.count(anchor)}" if anchor in found else anchor)
    return {*found}
