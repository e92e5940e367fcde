"""Images and documents: from what a column holds or names to content blocks."""

import base64
import json
import os
import struct
import zlib
from contextlib import contextmanager

import httpx2
import msgspec
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import claude_pipeline as cp
from claude_pipeline.errors import InputError, MissingColumnError
from claude_pipeline.media import MediaSlot
from claude_pipeline.templates import BLANK, missing_field
from claude_pipeline.values import Unsendable

JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00"
GIF = b"GIF89a\x01\x00\x01\x00\x00\x00\x00;"
WEBP = b"RIFF\x1a\x00\x00\x00WEBPVP8L"
PDF = b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n%%EOF\n"
MOST_OF_AN_IMAGE, MOST_OF_A_DOCUMENT = 7_864_320, 25_165_824


def png(shade=0):
    """Draw one gray pixel."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(bytes([0, shade])))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in [*chunks, (b"IEND", b"")]
    )


PNG = png()


def image(data, media_type="image/png"):
    source = {"type": "base64", "media_type": media_type, "data": base64.b64encode(data).decode()}
    return {"type": "image", "source": source}


def pdf(data):
    return {"type": "document", "source": {**image(data)["source"], "media_type": "application/pdf"}}


def plain(text):
    return {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": text}}


def slot(*, images=(), documents=(), folder="/", skip_null=False):
    return MediaSlot(images=tuple(images), documents=tuple(documents), folder=str(folder), skip_null=skip_null)


def fill(media, **columns):
    """Fill, and read what is made as JSON; a row that cannot be sent stays as it is."""
    arrays = {name: cells if isinstance(cells, pa.Array) else pa.array(cells) for name, cells in columns.items()}
    return [cell if isinstance(cell, Unsendable) else parse(cell) for cell in media.fill(pa.record_batch(arrays))]


def parse(blocks):
    assert not blocks or blocks.endswith(b",")
    return json.loads(b"[" + blocks.removesuffix(b",") + b"]")


def photo(cell, **options):
    """Fill one cell of an image column."""
    cells = cell if isinstance(cell, pa.Array) else [cell]
    (filled,) = fill(slot(images=["photo"], **options), photo=cells)
    return filled


def paper(cell, **options):
    """Fill one cell of a document column."""
    (filled,) = fill(slot(documents=["paper"], **options), paper=[cell])
    return filled


# Blocks


@pytest.mark.parametrize(
    ("data", "media_type"), [(JPEG, "image/jpeg"), (PNG, "image/png"), (GIF, "image/gif"), (WEBP, "image/webp")]
)
def test_an_image_becomes_a_block_of_the_type_that_its_bytes_say(data, media_type):
    assert photo(data) == [image(data, media_type)]


def test_a_pdf_becomes_a_document_block():
    assert paper(PDF) == [pdf(PDF)]


def test_a_pdf_may_begin_with_a_mark_and_blank_lines():
    assert paper(b"\xef\xbb\xbf\r\n" + PDF) == [pdf(b"\xef\xbb\xbf\r\n" + PDF)]


def test_other_text_becomes_a_plain_text_document():
    assert paper('Zoë said: "1 < 2".\n'.encode()) == [plain('Zoë said: "1 < 2".\n')]


def test_blocks_are_written_in_the_order_of_the_sdks_types():
    batch = pa.record_batch({"paper": [PDF], "photo": [GIF], "note": [b"Hi"], "link": ["https://example.com/a.png"]})
    (blocks,) = slot(images=["photo", "link"], documents=["paper", "note"]).fill(batch)
    assert blocks.decode() == (
        '{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"'
        + base64.b64encode(PDF).decode()
        + '"}},{"type":"document","source":{"type":"text","media_type":"text/plain","data":"Hi"}},'
        '{"type":"image","source":{"type":"base64","media_type":"image/gif","data":"'
        + base64.b64encode(GIF).decode()
        + '"}},{"type":"image","source":{"type":"url","url":"https://example.com/a.png"}},'
    )


def test_documents_come_first_then_images_each_in_the_order_of_their_columns():
    media = slot(images=["c", "a"], documents=["d", "b"])
    assert media.columns == ("d", "b", "c", "a")
    (blocks,) = fill(media, a=[GIF], b=[b"b"], c=[PNG], d=[b"d"])
    assert blocks == [plain("d"), plain("b"), image(PNG), image(GIF, "image/gif")]


@given(st.binary() | st.sampled_from([JPEG, PNG, GIF, WEBP, PDF]).flatmap(lambda head: st.binary().map(head.__add__)))
@example(b"")
@example(b"MM\0*")
def test_any_bytes_become_a_block_that_holds_them_or_mark_the_row(data):
    for filled in (photo(data), paper(data)):
        if isinstance(filled, Unsendable):
            assert filled.error_type == "invalid_media"
            continue
        (block,) = filled
        source = block["source"]
        held = source["data"].encode() if source["type"] == "text" else base64.b64decode(source["data"], validate=True)
        assert held == data


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_any_text_of_a_document_arrives_as_it_is(text):
    if not text.isspace() and not text.lstrip("\ufeff \t\r\n\v\f").startswith("%PDF-"):
        assert paper(text.encode()) == [plain(text)]


# Columns


@pytest.mark.parametrize(
    "kind",
    [pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(len(PNG)), pa.dictionary(pa.int8(), pa.binary())],
    ids=str,
)
def test_every_type_of_bytes_is_taken(kind):
    column = pa.array([PNG, png(shade=9)]).cast(kind)
    media = slot(images=["photo"])
    media.check_types(pa.schema({"photo": kind}), source="a table")
    assert fill(media, photo=column) == [[image(PNG)], [image(png(shade=9))]]


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())],
    ids=str,
)
def test_every_type_of_text_is_a_path_or_a_url(tmp_path, kind):
    tmp_path.joinpath("a.png").write_bytes(PNG)
    media = slot(images=["photo"], folder=tmp_path)
    media.check_types(pa.schema({"photo": kind}), source="a table")
    (by_path, by_url) = fill(media, photo=pa.array(["a.png", "http://example.com/a"]).cast(kind))
    assert by_path == [image(PNG)]
    assert by_url == [{"type": "image", "source": {"type": "url", "url": "http://example.com/a"}}]


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.binary()),
        pa.large_list(pa.large_binary()),
        pa.list_(pa.binary(), 2),
        pa.list_view(pa.binary()),
        pa.large_list_view(pa.binary()),
    ],
    ids=str,
)
def test_a_list_becomes_several_blocks(kind):
    media = slot(images=["photo"])
    media.check_types(pa.schema({"photo": kind}), source="a table")
    assert photo(pa.array([[PNG, GIF]], kind)) == [image(PNG), image(GIF, "image/gif")]


def test_a_list_of_texts_mixes_paths_and_urls(tmp_path):
    tmp_path.joinpath("a.png").write_bytes(PNG)
    path, url = photo(["a.png", "HTTPS://example.com/b"], folder=tmp_path)
    assert (path, url["source"]) == (image(PNG), {"type": "url", "url": "HTTPS://example.com/b"})


HUGGING_FACE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def test_a_hugging_face_image_is_its_bytes_or_else_its_path(tmp_path):
    tmp_path.joinpath("b.png").write_bytes(GIF)
    rows = [{"bytes": PNG, "path": "none.png"}, {"bytes": None, "path": "b.png"}]
    media = slot(images=["photo"], folder=tmp_path)
    media.check_types(pa.schema({"photo": HUGGING_FACE}), source="a table")
    assert fill(media, photo=pa.array(rows, HUGGING_FACE)) == [[image(PNG)], [image(GIF, "image/gif")]]
    assert photo(pa.array([rows], pa.list_(HUGGING_FACE)), folder=tmp_path) == [image(PNG), image(GIF, "image/gif")]


@pytest.mark.parametrize("cell", [None, {"bytes": None, "path": None}])
def test_a_hugging_face_image_without_either_is_null(cell):
    assert photo(pa.array([cell], HUGGING_FACE)) == missing_field("photo")


@pytest.mark.parametrize(
    "kind",
    [
        pa.int64(),
        pa.list_(pa.uint8()),
        pa.list_(pa.list_(pa.binary())),
        pa.struct({"bytes": pa.binary(), "caption": pa.string()}),
        pa.struct({"bytes": pa.string()}),
        pa.struct([("path", pa.string()), ("path", pa.string())]),
        pa.dictionary(pa.int8(), pa.int64()),
    ],
    ids=str,
)
def test_other_types_are_refused_before_anything_is_read(kind):
    with pytest.raises(InputError, match=r"Column 'photo' of shop\.parquet is .*, which holds no images or documents"):
        slot(images=["photo"]).check_types(pa.schema({"photo": kind}), source="shop.parquet")


def test_a_column_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(MissingColumnError, match=r"No column 'foto' in shop\.csv\. It has: id, photo\."):
        slot(images=["foto"]).check_types(pa.schema({"id": pa.int64(), "photo": pa.string()}), source="shop.csv")


@pytest.mark.parametrize(("before", "after"), [(b"", b","), (b",", b""), (b"", b"")])
def test_what_stands_around_the_blocks_stands_there_only_if_there_are_any(before, after):
    media = MediaSlot(("photo",), (), "/", skip_null=True, before=before, after=after)
    both, one, none = media.fill(pa.record_batch({"photo": [[PNG, GIF], [None, PNG], None]}))
    one_block = json.dumps(image(PNG), separators=(",", ":")).encode()
    other_block = json.dumps(image(GIF, "image/gif"), separators=(",", ":")).encode()
    assert both == before + one_block + b"," + other_block + after
    assert one == before + one_block + after
    assert none == (b"" if before or after else BLANK)


def test_a_slot_is_stored_and_comes_back():
    media = MediaSlot(("photo",), ("paper",), "/a", skip_null=True, before=b",", after=b"")
    assert msgspec.json.decode(msgspec.json.encode(media), type=MediaSlot) == media


# Paths


def test_paths_are_absolute_relative_to_the_folder_at_home_or_file_urls(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("home/a.png", "data/b c%20#?.png"):
        tmp_path.joinpath(name).parent.mkdir()
        tmp_path.joinpath(name).write_bytes(PNG)
    other = tmp_path / "data" / "b c%20#?.png"
    texts = ["~/a.png", "../home/a.png", str(other), other.name, other.as_uri()]
    texts.append(other.as_uri().replace("file://", "FILE://localhost"))
    rows = fill(slot(images=["photo"], folder=tmp_path / "data"), photo=texts)
    assert rows == [[image(PNG)]] * 6


def test_a_file_may_have_a_name_that_begins_like_a_users_home(tmp_path):
    tmp_path.joinpath("~nobody-here.png").write_bytes(PNG)
    assert photo("~nobody-here.png", folder=tmp_path) == [image(PNG)]


def test_a_document_is_read_from_its_path(tmp_path):
    tmp_path.joinpath("a.txt").write_bytes(b"Hi\r\n")
    assert paper("a.txt", folder=tmp_path) == [plain("Hi\r\n")]


def test_a_file_that_has_changed_becomes_another_block(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    before = photo(str(path))
    path.write_bytes(png(shade=9))
    assert photo(str(path)) == [image(png(shade=9))] != before


def test_a_file_that_does_not_exist_marks_its_row_alone(tmp_path):
    tmp_path.joinpath("a.png").write_bytes(PNG)
    good, bad = fill(slot(images=["photo"], folder=tmp_path), photo=["a.png", "b.png"])
    assert good == [image(PNG)]
    assert bad == Unsendable(
        "missing_file",
        f"Column 'photo' names '{tmp_path}/b.png', which does not exist. Mend the path, or put the file there.",
    )


def unreadable(text, **options):
    filled = photo(text, **options)
    assert filled.error_type == "unreadable_file"
    return filled.error_message


def test_a_folder_is_no_file(tmp_path):
    assert "which is a folder. Name a file." in unreadable(str(tmp_path))


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "which is a pipe or a device" in unreadable("pipe", folder=tmp_path)


def test_a_device_is_not_read():
    assert "which is a pipe or a device" in unreadable("/dev/zero")


def test_a_name_with_a_null_character_is_no_path():
    assert "names '/a\\x00b', which cannot be read (" in unreadable("a\0b")


def test_an_overlong_name_is_shown_with_its_two_ends():
    message = unreadable("begin" + "x" * 5000 + "end")
    assert "names '/beginxxx" in message
    assert "xxxend', which cannot be read (File name too long)" in message
    assert len(message) < 400


def test_a_path_through_a_file_cannot_be_read(tmp_path):
    tmp_path.joinpath("a.png").write_bytes(PNG)
    assert "(Not a directory)" in unreadable("a.png/b.png", folder=tmp_path)


@contextmanager
def an_ordinary_user():
    """Root may read everything, so be nobody for a while."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


def test_a_file_without_permission_cannot_be_read(tmp_path):
    tmp_path.joinpath("a.png").write_bytes(PNG)
    tmp_path.joinpath("a.png").chmod(0)
    with an_ordinary_user():
        message = unreadable("a.png", folder=tmp_path)
    assert "(Permission denied)" in message


@pytest.mark.parametrize("text", ["s3://bucket/a.png", "data:image/png;base64,iVBORw0KGgo="])
def test_other_urls_are_refused(text):
    assert unreadable(text) == (
        f"Column 'photo' is {text!r}, which is neither a local path nor an http(s) URL. Name a copy, or hold its bytes."
    )


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
@example("file://%00")
@example("file://[x")
@example("~/\0")
def test_any_text_names_a_file_or_marks_the_row(text):
    filled = photo(text, folder="/nowhere")
    if isinstance(filled, Unsendable):
        assert filled.error_type in {"missing_file", "unreadable_file", "missing_field", "invalid_media"}
        filled.error_message.encode()
    else:
        assert filled[0]["source"]["url"] == text


def test_text_that_is_not_unicode_marks_its_row():
    column = pa.array([b"\xff.png", b"https://example.com"]).view(pa.string())
    bad, good = fill(slot(images=["photo"]), photo=column)
    assert bad == Unsendable("invalid_text", "Column 'photo' is not valid UTF-8. Mend it in the input.")
    assert good[0]["source"]["type"] == "url"


# Bytes that are no image or document


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"II*\0\x08", "TIFF"),
        (b"MM\0*\0", "TIFF"),
        (b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0", "BMP"),
        (b"\0\0\0\x18ftypheic\0", "HEIC"),
        (b"\0\0\0\x1cftypavif\0", "AVIF"),
        (b"\0\0\0\x0cJXL \r\n", "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n", "JPEG 2000"),
        (b"\0\0\x01\0\x01\0", "ICO"),
        (b"8BPS\0\x01", "PSD"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b'<?xml version="1.0"?>\n<!-- A -->\n<svg/>', "SVG"),
        (b"\r\n<!DOCTYPE html><title>404</title>", "HTML"),
        (b"PK\x03\x04\x14", "a ZIP file, as Word and Excel ones are"),
    ],
)
def test_another_format_is_named(data, name):
    assert photo(data) == Unsendable(
        "invalid_media",
        f"Column 'photo' is not a JPEG, PNG, GIF or WebP; it seems to be {name}. Convert it.",
    )


def test_a_pdf_among_images_belongs_to_the_documents():
    assert photo(PDF).error_message.endswith("it seems to be application/pdf. Name the column in documents=.")


def test_an_image_among_documents_belongs_to_the_images():
    assert paper(PNG) == Unsendable(
        "invalid_media",
        "Column 'paper' is not a PDF or UTF-8 text; it seems to be image/png. Name the column in images=.",
    )


@pytest.mark.parametrize("data", [b"\xffbinary", "Text".encode("utf-16"), "Text".encode("utf-16-le")])
def test_bytes_that_are_no_text_are_no_document(data):
    assert paper(data).error_message == (
        "Column 'paper' is not a PDF or UTF-8 text; it begins like none of them. Convert it."
    )


@pytest.mark.parametrize("data", [b"", b" \n"])
def test_nothing_at_all_is_no_image_and_no_document(data):
    assert photo(data).error_message == "Column 'photo' is not a JPEG, PNG, GIF or WebP; it is empty. Make it anew."
    assert paper(data).error_message == "Column 'paper' is not a PDF or UTF-8 text; it is empty. Make it anew."


def test_the_path_of_a_bad_file_is_named(tmp_path):
    tmp_path.joinpath("a.png").touch()
    assert photo("a.png", folder=tmp_path).error_message == (
        f"Column 'photo' names '{tmp_path}/a.png', which is not a JPEG, PNG, GIF or WebP; it is empty. Make it anew."
    )


def test_the_bad_item_of_a_list_is_named():
    assert photo([PNG, b"II*\0"]).error_message.startswith("Column 'photo', item 2, is not a JPEG")


def test_the_bad_column_is_named():
    (bad,) = fill(slot(images=["a", "b"]), a=[PNG], b=[b"8BPS"])
    assert bad.error_message.startswith("Column 'b' is not")


# Sizes


def test_an_image_may_have_ten_megabytes_of_base64_and_no_more():
    (block,) = photo(PNG.ljust(MOST_OF_AN_IMAGE, b"\0"))
    assert len(block["source"]["data"]) == 10 * 2**20
    assert photo(PNG.ljust(MOST_OF_AN_IMAGE + 1, b"\0")) == Unsendable(
        "media_too_large",
        "Column 'photo' has 7,864,321 bytes; the most for one image is 7,864,320 (10 MB as base64). "
        "Make it smaller, or give a URL that the API can fetch.",
    )


def test_a_document_may_have_thirty_two_megabytes_of_base64_and_no_more():
    (block,) = paper(PDF.ljust(MOST_OF_A_DOCUMENT, b"\0"))
    assert len(block["source"]["data"]) == 32 * 2**20
    assert paper(PDF.ljust(MOST_OF_A_DOCUMENT + 1, b"\0")).error_type == "media_too_large"


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with tmp_path.joinpath("huge.png").open("wb") as file:
        file.truncate(2**36)
    message = photo("huge.png", folder=tmp_path).error_message
    assert f"names '{tmp_path}/huge.png', which has 68,719,476,736 bytes; the most for one image" in message


# Nulls


def test_a_null_marks_its_row():
    good, bad = fill(slot(images=["photo"]), photo=[PNG, None])
    assert good == [image(PNG)]
    assert bad == missing_field("photo")


@pytest.mark.parametrize(
    ("cell", "what"),
    [
        ("", "Column 'photo' is ''. "),
        (" ", "Column 'photo' is ' '. "),
        (pa.array([[]], pa.list_(pa.binary())), "Column 'photo' is []. "),
        ([PNG, None], "Column 'photo', item 2, is null. "),
    ],
)
def test_a_blank_path_and_an_empty_list_are_missing_too(cell, what):
    assert photo(cell) == Unsendable("missing_field", what + "It was not sent; fill it in the input.")


def test_a_column_of_nulls_alone_marks_every_row():
    media = slot(images=["photo"])
    media.check_types(pa.schema({"photo": pa.null()}), source="a table")
    assert fill(media, photo=pa.nulls(2)) == [missing_field("photo")] * 2


@pytest.mark.parametrize("cell", ["", pa.array([None], pa.binary()), pa.array([[]], pa.list_(pa.string()))])
def test_what_is_missing_is_left_out_on_demand(cell):
    assert photo(cell, skip_null=True) == []


def test_what_is_there_stays_when_the_rest_is_left_out():
    media = slot(images=["photo"], documents=["paper"], skip_null=True)
    rows = fill(media, photo=pa.array([[None, PNG], None]), paper=[None, PDF])
    assert rows == [[image(PNG)], [pdf(PDF)]]


def test_a_bad_image_is_never_left_out():
    assert photo(b"", skip_null=True).error_type == "invalid_media"


# Requests


@pytest.fixture(scope="module")
def one_sandbox():
    with cp.Sandbox() as server:
        yield server


@pytest.mark.parametrize(
    ("images", "documents"),
    [
        ([PNG, JPEG, GIF, WEBP], None),
        (["https://example.com/a.png"], None),
        (None, [PDF, b"Plain."]),
        (None, ["https://example.com/a.pdf"]),
        ([PNG], [PDF]),
    ],
)
def test_a_request_with_each_block_is_answered(one_sandbox, images, documents):
    kind = pa.list_(pa.string()) if isinstance((images or documents)[0], str) else pa.list_(pa.binary())
    batch = pa.record_batch({"photo": pa.array([images], kind), "paper": pa.array([documents], kind)})
    (blocks,) = slot(images=["photo"], documents=["paper"], skip_null=True).fill(batch)
    body = (
        b'{"model":"claude-haiku-4-5","max_tokens":16,"messages":[{"role":"user","content":['
        + blocks
        + b'{"type":"text","text":"What is it?"}]}]}'
    )
    headers = {"x-api-key": "sandbox", "anthropic-version": "2026-10-21", "content-type": "application/json"}
    answer = httpx2.post(f"{one_sandbox.url}/v1/messages", content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["type"] == "message"
