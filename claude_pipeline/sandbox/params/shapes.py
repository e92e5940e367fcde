"""What the shapes of a message's parameters are made of: citations and sources.

What is well known refuses keys that it does not have; exotic things are known by their type and may hold
anything else. An optional key that is null counts as absent.
"""

from typing import Literal

from msgspec import Struct


class Shape(Struct, forbid_unknown_fields=True, gc=False):
    """An object whose keys are all known."""


class Open(Shape, forbid_unknown_fields=False):
    """An object that may hold more than is said here."""


class CacheControl(Shape):
    """Mark the end of a prefix to cache."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class Cacheable(Shape):
    """What may end a prefix to cache."""

    cache_control: CacheControl | None = None


class Exotic(Cacheable, forbid_unknown_fields=False):
    """What may hold more than is said here, and may end a prefix to cache."""


class InDocument(Shape):
    """Cite a passage of a document."""

    cited_text: str
    document_index: int
    document_title: str | None
    file_id: str | None = None


class CharLocation(InDocument, tag="char_location", kw_only=True):
    """Cite characters."""

    start_char_index: int
    end_char_index: int


class PageLocation(InDocument, tag="page_location", kw_only=True):
    """Cite pages."""

    start_page_number: int
    end_page_number: int


class ContentBlockLocation(InDocument, tag="content_block_location", kw_only=True):
    """Cite content blocks."""

    start_block_index: int
    end_block_index: int


class WebSearchResultLocation(Shape, tag="web_search_result_location"):
    """Cite a page of the web."""

    cited_text: str
    encrypted_index: str
    title: str | None
    url: str


class SearchResultLocation(Shape, tag="search_result_location"):
    """Cite a search result of the user's own."""

    cited_text: str
    search_result_index: int
    source: str
    start_block_index: int
    end_block_index: int
    title: str | None


Citation = CharLocation | PageLocation | ContentBlockLocation | WebSearchResultLocation | SearchResultLocation


class Base64Image(Shape, tag="base64"):
    """Send an image itself."""

    data: str
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]


class Base64Pdf(Shape, tag="base64"):
    """Send a PDF itself."""

    data: str
    media_type: Literal["application/pdf"]


class PlainText(Shape, tag="text"):
    """Send a plain text itself."""

    data: str
    media_type: Literal["text/plain"]


class UrlSource(Shape, tag="url"):
    """Point to the web."""

    url: str


class FileSource(Shape, tag="file"):
    """Point to an uploaded file."""

    file_id: str


class Transformations(Shape):
    """Say what becomes of an image that is too large."""

    oversized_image: Literal["downsize", "error"] | None = None


class Citations(Shape):
    """Switch citations on or off."""

    enabled: bool | None = None
