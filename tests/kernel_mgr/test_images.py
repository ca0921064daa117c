"""Images of a mime bundle become files, and nothing else does."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipybox.errors import ImageWriteError
from ipybox.kernel_mgr.images import ImageWriter, decode, has_image

PNG = b"\x89PNG\r\n\x1a\n and more"
PNG64 = base64.b64encode(PNG).decode()
SVG = '<svg xmlns="http://www.w3.org/2000/svg"/>'


@settings(deadline=None)
@given(st.binary(max_size=60), st.integers(1, 20), st.booleans())
def test_base64_is_read_also_in_lines_and_in_pieces(content: bytes, width: int, as_list: bool) -> None:
    text = base64.b64encode(content).decode()
    lines = [text[start : start + width] + "\n" for start in range(0, len(text), width)]
    assert decode("image/png", lines if as_list else "".join(lines)) == content


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=())))
def test_svg_is_text(text: str) -> None:
    assert decode("image/svg+xml", text) == text.encode("utf-8", "surrogatepass")


@pytest.mark.parametrize(
    "value", ["abc", "ab=c", "a", "$$$$", "äöü!", 1, None, b"AAAA", {"a": 1}, [1, 2], [None], [["A"]]]
)
def test_what_is_no_base64_text_is_no_image(value: Any) -> None:
    assert decode("image/png", value) is None


@pytest.mark.parametrize("value", [1, None, {"a": 1}, [1], [None, "<svg/>"]])
def test_what_is_no_text_is_no_svg(value: Any) -> None:
    assert decode("image/svg+xml", value) is None


@pytest.mark.parametrize(
    ("data", "suffix", "content"),
    [
        ({"image/png": PNG64, "text/plain": "<Figure>"}, ".png", PNG),
        ({"image/jpeg": PNG64}, ".jpg", PNG),
        ({"image/svg+xml": SVG}, ".svg", SVG.encode()),
        ({"image/svg+xml": SVG, "image/jpeg": "AAAA", "image/png": PNG64}, ".png", PNG),
    ],
)
@pytest.mark.asyncio
async def test_the_best_format_is_saved(tmp_path: Path, data: dict[str, Any], suffix: str, content: bytes) -> None:
    writer = ImageWriter(tmp_path)
    path = await writer.save(data)
    writer.close()
    assert has_image(data)
    assert path is not None
    assert (path.parent, path.suffix) == (tmp_path, suffix)
    assert path.read_bytes() == content


@pytest.mark.asyncio
async def test_a_display_without_an_image_saves_nothing(tmp_path: Path) -> None:
    writer = ImageWriter(tmp_path / "images")
    assert not has_image({"text/plain": "x", "image/gif": "AAAA"})
    assert await writer.save({"text/plain": "x", "image/gif": "AAAA"}) is None
    writer.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.asyncio
async def test_each_image_gets_a_name_of_its_own(tmp_path: Path) -> None:
    writer = ImageWriter(tmp_path)
    paths = {await writer.save({"image/png": PNG64}) for _ in range(20)}
    writer.close()
    assert len(paths) == len(list(tmp_path.iterdir())) == 20


@pytest.mark.asyncio
async def test_an_image_that_is_none_is_refused_by_its_type(tmp_path: Path) -> None:
    writer = ImageWriter(tmp_path)
    with pytest.raises(ImageWriteError, match="no valid image/png") as caught:
        await writer.save({"image/png": "$$$"})
    writer.close()
    assert Path(caught.value.path).parent == tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.asyncio
async def test_an_image_is_not_written_where_a_link_was_planted(tmp_path: Path) -> None:
    place, target = tmp_path / "images", tmp_path / "target"
    target.mkdir()
    writer = ImageWriter(place)
    writer.directory.open()
    place.rmdir()
    place.symlink_to(target)
    with pytest.raises(ImageWriteError, match="can't save an image to"):
        await writer.save({"image/png": PNG64})
    writer.close()
    assert list(target.iterdir()) == []
