"""Answers from the documents of a prompt, with citations that are true."""

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from claude_pipeline.sandbox.answers.reading import blocks, is_plain
from claude_pipeline.sandbox.params import Params

SENTENCE: Final = re.compile(r"\S[^.!?\n]*(?:[.!?](?!\s)[^.!?\n]*)*[.!?]?")
WORD: Final = re.compile(r"\w+")
MOST_PASSAGES: Final = 10_000

Citation = dict[str, Any]


def cite(params: Params) -> list[dict[str, Any]] | None:
    """Answer with the passage of a citable document that shares most words with the question.

    Returns:
        One text block with its citation, or None if no document has text and `citations` enabled.
    """
    if is_plain(params):
        return None
    asked = _words(_question(params))
    found = islice(_citations(params), MOST_PASSAGES)
    best = max(found, key=lambda citation: len(asked & _words(citation["cited_text"])), default=None)
    if best is None:
        return None
    return [{"type": "text", "text": best["cited_text"].strip(), "citations": [best]}]


def _question(params: Params) -> str:
    turns = [blocks(turn["content"]) for turn in params["messages"] if turn["role"] == "user"]
    return "\n".join(block["text"] for block in turns[-1] if block.get("type") == "text")


def _words(text: str) -> frozenset[str]:
    return frozenset(WORD.findall(text.lower()))


def _citations(params: Params) -> Iterator[Citation]:
    # Documents are numbered over the whole request, those without citations too.
    found = (block for turn in params["messages"] for block in blocks(turn["content"]))
    documents = (block for block in found if block.get("type") == "document")
    for index, document in enumerate(documents):
        if _is_citable(document):
            title = document.get("title")
            about = {
                "document_index": index,
                "document_title": title if isinstance(title, str) else None,
                "file_id": None,
            }
            yield from (about | location for location in _locations(document.get("source")))


def _is_citable(document: dict[str, Any]) -> bool:
    citations = document.get("citations")
    return isinstance(citations, dict) and citations.get("enabled") is True


def _locations(source: object) -> Iterator[Citation]:
    match source:
        case {"type": "text", "data": str(data)}:
            for found in SENTENCE.finditer(data):
                yield _char_location(found)
        case {"type": "content", "content": str(text)}:
            yield from _block_locations([{"type": "text", "text": text}])
        case {"type": "content", "content": list(content)}:
            yield from _block_locations(content)


def _char_location(found: re.Match[str]) -> Citation:
    return {
        "type": "char_location",
        "cited_text": found.group(),
        "start_char_index": found.start(),
        "end_char_index": found.end(),
    }


def _block_locations(content: list[Any]) -> Iterator[Citation]:
    for index, block in enumerate(content):
        match block:
            case {"type": "text", "text": str(text)} if text.strip():
                yield {
                    "type": "content_block_location",
                    "cited_text": text,
                    "start_block_index": index,
                    "end_block_index": index + 1,
                }
