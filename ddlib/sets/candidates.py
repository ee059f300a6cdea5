"""Crops of real images in their native size, drawn by seed: which images, which boxes, and their pixels.

Crops go by (seed, class, image, number of the crop), so no order of work changes them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ddlib.augment.crops import SQUARE, crop_boxes, resized_crop
from ddlib.data.native import Native
from ddlib.streams import Streams

READ_AT_ONCE = 8
"""Images a thread reads and crops before it hands them over."""
SMALL = 96
"""Images of at most this side are cropped many at a time, as matrix products; larger ones one by one."""


def drawn_files(native: Native, label: int, n: int, seed: int, name: str, exclude: Tensor | None = None) -> Tensor:
    """`n` images of class `label` drawn by seed, int64 [n]; none that is held out or among `exclude` (int64 [m]).

    `name`: of the class, for the error. More of them begin with the same ones. ValueError where there are fewer.
    """
    members = torch.nonzero((native.labels == label) & ~native.heldout).flatten()
    order = members[torch.from_numpy(Streams(seed, "score").at("files", label).permutation(len(members)))]
    left = order if exclude is None else order[~torch.isin(order, exclude.cpu())]
    if len(left) < n:
        used = f", {len(order) - len(left)} of them used before" if len(left) < len(order) else ""
        raise ValueError(
            f"class {label} ({name}) has {len(order)} training images{used}, {n} were asked for (mipc, or ipc x "
            "factor^2). Lower mipc: each image gives one crop, and ipc x factor^2 of them are needed."
        )
    return left[:n]


def drawn_boxes(seed: int, label: int, file: int, crops: int, height: int, width: int) -> np.ndarray:
    """The square crops int64 [crops, 4] that are tried of an image; more of them begin with the same ones."""
    return crop_boxes(Streams(seed, "score").at("crops", label, file), crops, height, width, ratio=SQUARE)


def cropped(image: Tensor, boxes: Tensor, side: int, scale: float) -> Tensor:
    """Boxes [n, 4] of an image uint8 [C, H, W], shrunk (bilinear, antialiased) to shares 0-1 [n, C, side, side]."""
    found = [
        F.interpolate(
            image[None, :, top : top + h, left : left + w].float(), (side, side), mode="bilinear", antialias=True
        )
        for top, left, h, w in boxes.tolist()
    ]
    return torch.cat(found).div_(scale)


@dataclass(frozen=True)
class Cropping:
    """What is cropped: images `file` [n] (class by class, `each` of them), `crops` of each, to side `side`."""

    native: Native
    file: Tensor
    labels: Tensor
    crops: int
    side: int
    seed: int

    def read(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """(boxes int32 [n * crops, 4], shares [n * crops, C, side, side]) of images first, ..., last - 1."""
        images = [self.native.read(int(i)) for i in self.file[first:last]]
        drawn = [
            torch.from_numpy(drawn_boxes(self.seed, int(label), int(i), self.crops, *image.shape[1:]))
            for image, i, label in zip(images, self.file[first:last], self.labels[first:last], strict=True)
        ]
        boxes = torch.cat(drawn)
        sizes = {tuple(image.shape) for image in images}
        if len(sizes) == 1 and max(next(iter(sizes))[1:]) <= SMALL:
            whole = torch.stack(images).float().repeat_interleave(self.crops, 0)
            return boxes.int(), resized_crop(whole, boxes, self.side).div_(self.native.scale)
        shares = [cropped(image, own, self.side, self.native.scale) for image, own in zip(images, drawn, strict=True)]
        return boxes.int(), torch.cat(shares)

    def stream(self, first: int, threads: int) -> Iterator[tuple[Tensor, Tensor]]:
        """What :meth:`read` gives of all images from `first` on, in order, read by `threads` a little ahead."""
        starts = iter(range(first, len(self.file), READ_AT_ONCE))
        with ThreadPoolExecutor(threads) as pool:
            ahead: deque[Future[tuple[Tensor, Tensor]]] = deque()
            try:
                for start in starts:
                    ahead.append(pool.submit(self.read, start, min(start + READ_AT_ONCE, len(self.file))))
                    if len(ahead) > 2 * threads:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for waiting in ahead:
                    waiting.cancel()

    def batches(self, first: int, size: int, threads: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(boxes, shares) of `size` crops at a time (the last of fewer), from crop number `first` on."""
        start = first // self.crops // READ_AT_ONCE * READ_AT_ONCE
        skipped = first - start * self.crops
        held: list[Tensor] = []
        for boxes, shares in self.stream(start, threads):
            both = [boxes[skipped:], shares[skipped:]]
            held = [torch.cat(pair) for pair in zip(held, both, strict=True)] if held else both
            skipped = max(0, skipped - len(boxes))
            while len(held[0]) >= size:
                yield held[0][:size], held[1][:size]
                held = [rest[size:] for rest in held]
        if len(held[0]):
            yield held[0], held[1]
