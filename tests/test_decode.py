"""Image files as pixels: every kind that is read, and every kind of bad file."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from folders import encoded, picture
from PIL import Image

from ddlib.data.decode import Unreadable, decode, header
from ddlib.data.resize import working


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_of_every_colour_space_is_read_as_pillow_reads_it(mode: str, progressive: bool) -> None:
    data = encoded(picture(1).convert(mode), "JPEG", quality=90, progressive=progressive)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).transpose(2, 0, 1).astype(int)
    found = decode(data, "x.jpg")
    assert (header(data, "x.jpg"), found.dtype) == (("jpeg", 20, 16), torch.uint8)
    assert np.abs(found.numpy().astype(int) - expected).max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_png_of_every_kind_is_read_exactly(mode: str) -> None:
    data = encoded(picture(2).convert(mode))
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).transpose(2, 0, 1)
    assert header(data, "x.png") == ("png", 20, 16)
    assert (decode(data, "x.png").numpy() == expected).all()


def test_sixteen_bits_become_eight() -> None:
    deep = (np.arange(320, dtype=np.uint16) * 200).reshape(16, 20)
    found = decode(encoded(Image.fromarray(deep)), "x.png")
    assert (found.numpy() == np.stack([deep >> 8] * 3)).all()


def test_a_thumbnail_in_a_jpeg_is_not_its_size() -> None:
    thumbnail = encoded(picture(3, 8, 8), "JPEG")
    whole = encoded(picture(3), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    assert header(whole[:2] + segment + whole[2:], "x.jpg") == ("jpeg", 20, 16)


JPEG, PNG = encoded(picture(4), "JPEG"), encoded(picture(4))


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "bad is empty"),
        (b"hello", "bad is no JPEG or PNG image"),
        (JPEG[:-200], "bad cannot be decoded: Image is incomplete or truncated"),
        (JPEG[:-2], "bad cannot be decoded"),
        (JPEG[:30], "its header is damaged"),
        (PNG[:-30], "bad cannot be decoded"),
        (PNG[:20], "its header is damaged"),
        (PNG[:60] + b"\0\0\0\0" + PNG[64:], "bad cannot be decoded"),
    ],
)
def test_damaged_files_are_unreadable(data: bytes, message: str) -> None:
    with pytest.raises(Unreadable, match=message):
        decode(data, "bad")


@pytest.mark.parametrize("base", [JPEG, PNG, encoded(picture(4), "JPEG", progressive=True)])
def test_no_damage_ends_the_process(base: bytes) -> None:
    rng, unreadable = np.random.default_rng(0), 0
    for _ in range(150):
        data = bytearray(base)
        for place in rng.integers(8, len(data), 3):
            data[place] = rng.integers(256)
        try:
            assert decode(bytes(data), "x").dtype == torch.uint8
        except ValueError:
            unreadable += 1
    assert unreadable > 10


def test_transparency_in_a_palette_is_no_colour() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([17, 34, 51, 68, 85, 102])
    image.putpixel((1, 0), 1)
    found = decode(encoded(image, transparency=bytes([0, 128])), "x.png")
    assert found.flatten(1).T.tolist() == [[17, 34, 51], [68, 85, 102]]


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "WebP"])
def test_other_kinds_are_refused_and_named(kind: str) -> None:
    with pytest.raises(ValueError, match=rf"x.jpg is a {kind} image: convert it") as caught:
        decode(encoded(picture(5), kind), "x.jpg")
    assert not isinstance(caught.value, Unreadable)


def test_an_enormous_image_is_refused_before_it_is_decoded() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    with pytest.raises(ValueError, match=r"x.png has 60000 x 60000 pixels, more than the 100 million"):
        decode(data, "x.png")
    with pytest.raises(ValueError, match="60000 x 60000"):  # 10.8 GB were they decoded
        header(data, "x.png")


@pytest.mark.parametrize("width, height", [(30, 20), (20, 30), (64, 64), (7, 200), (33, 32)])
@pytest.mark.parametrize("size, shorter", [(16, None), (16, 20), (48, None)])
def test_the_working_size_is_torchvisions_resize_and_centre_crop(
    width: int, height: int, size: int, shorter: int | None
) -> None:
    from torchvision.transforms import CenterCrop, Compose, Resize

    image = picture(6, width, height)
    steps = Compose([Resize(shorter or size), CenterCrop(size)])
    expected = np.asarray(steps(image)).transpose(2, 0, 1).astype(int)
    found = working(torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy()), size, shorter)
    assert found.shape == (3, size, size)
    limit = 2 if max(width, height) <= 16 * min(width, height) else 12  # of long pictures only the middle is resized
    assert np.abs(found.numpy().astype(int) - expected).max() <= limit


def test_one_pixel_and_a_line_are_images_too() -> None:
    one = torch.tensor([10, 20, 30], dtype=torch.uint8).reshape(3, 1, 1)
    assert (working(one, 8) == one).all()
    assert working(torch.zeros(3, 1, 50_000, dtype=torch.uint8), 32).shape == (3, 32, 32)
    same = torch.arange(192, dtype=torch.uint8).reshape(3, 8, 8)
    assert torch.equal(working(same, 8), same)
