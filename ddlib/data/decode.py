"""An image file's bytes as pixels: JPEG (by torchvision.io) and PNG, always three colours.

PNG is read by Pillow, which torchvision needs itself: torchvision's own decoder (0.29) ends the process with a
segmentation fault at nearly every damaged PNG file, and takes transparency in palettes for colours.

What a file is stands in its first bytes, not in its name (ImageNet has a PNG called .JPEG and JPEGs in CMYK): its kind
and size are read from the header, so that nothing is decoded that is not an image of bearable size. Grey, palette,
16-bit and CMYK images become RGB, transparency is dropped. Rotation marks (EXIF) are not applied, as torchvision's
ImageFolder, which the papers use, does not apply them either.
"""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import torch
from torch import Tensor

MOST_PIXELS = 100_000_000
"""Larger images are refused before they are decoded (the largest of ImageNet has 61 million)."""
MOST_BYTES = 500_000_000
"""Larger files are refused before they are read."""

_OTHERS = {b"GIF8": "GIF", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"RIFF": "WebP"}
# Start-of-frame markers of JPEG (all but DHT, JPG and DAC, which lie among them).
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset((0x01, *range(0xD0, 0xD9)))


class Unreadable(ValueError):
    """A file that should be an image and cannot be decoded: what `skip_corrupt` skips."""


def header(data: bytes, name: str) -> tuple[str, int, int]:
    """(kind, width, height) from the first bytes of an image file called `name`; kind is jpeg or png, sizes in pixels.

    Unreadable if it is neither; ValueError if it is an image of a kind that is not read here, or one of more than
    :data:`MOST_PIXELS`.
    """
    found = _png(data) or _jpeg(data)
    if found is None:
        kind = next((kind for start, kind in _OTHERS.items() if data.startswith(start)), "")
        if kind:
            raise ValueError(f"{name} is a {kind} image: convert it to PNG or JPEG, or move it away")
        raise Unreadable(
            f"{name} is empty" if not data else f"{name} is no JPEG or PNG image, or its header is damaged"
        )
    kind, width, height = found
    if width * height > MOST_PIXELS:
        raise ValueError(
            f"{name} has {width} x {height} pixels, more than the {MOST_PIXELS // 10**6} million that are read: make "
            "it smaller, or move it away"
        )
    if not width or not height:
        raise Unreadable(f"{name} has {width} x {height} pixels")
    return kind, width, height


def decode(data: bytes, name: str) -> Tensor:
    """Pixels uint8 [3, H, W] of an image file with the bytes `data`, called `name` in errors.

    Errors as :func:`header`; Unreadable also where the file is truncated or damaged. (Damage within the entropy-coded
    data of a JPEG that still decodes goes unnoticed, here as in other readers.)
    """
    kind, width, height = header(data, name)
    return _decoded_jpeg(data, name) if kind == "jpeg" else _decoded_png(data, name, (width, height))


def _decoded_jpeg(data: bytes, name: str) -> Tensor:
    from torchvision.io import ImageReadMode, decode_jpeg

    try:
        found: Tensor = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    except RuntimeError as error:
        reason = str(error).splitlines()[0].rpartition(", ")[2]
        raise Unreadable(f"{name} cannot be decoded: {reason}") from None
    return found


def _decoded_png(data: bytes, name: str, size: tuple[int, int]) -> Tensor:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.size != size:
                raise Unreadable(f"{name} has two headers, of {size[0]} x {size[1]} pixels and another size")
            deep = image.mode.startswith("I")  # 16 bits of grey
            found = np.asarray(image if deep else image.convert("RGB"))
    except Unreadable:
        raise
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        zlib.error,
        struct.error,
        Image.DecompressionBombError,
    ) as error:
        raise Unreadable(f"{name} cannot be decoded: {error}") from None
    if deep:
        found = np.stack([found >> 8] * 3, axis=2).astype(np.uint8)
    return torch.from_numpy(found.transpose(2, 0, 1).copy())


def _png(data: bytes) -> tuple[str, int, int] | None:
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR" or len(data) < 24:
        return None
    width, height = struct.unpack(">II", data[16:24])
    return "png", width, height


def _jpeg(data: bytes) -> tuple[str, int, int] | None:
    """The size in the first frame of a JPEG file: segments are walked, as a thumbnail within one has a frame too."""
    if data[:2] != b"\xff\xd8":
        return None
    place = 2
    while place + 9 <= len(data):
        if data[place] != 0xFF:
            return None
        marker = data[place + 1]
        if marker == 0xFF or marker in _ALONE:
            place += 1 if marker == 0xFF else 2
            continue
        if marker in _FRAMES:
            height, width = struct.unpack(">HH", data[place + 5 : place + 9])
            return "jpeg", width, height
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None
