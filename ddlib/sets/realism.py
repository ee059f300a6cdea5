"""Realism scores of crops, in one stream over all images of all classes.

Sun et al., "On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation Paradigm" (RDED), CVPR
2024, arXiv 2312.03526; LINs-lab/RDED @ 3f6453d. A square crop of a real image is shrunk to size // factor, normalised,
zero-padded to the observer's size and scored by the observer's cross entropy; of each image the best crop counts.

Threads read and crop while the observer judges batches of one size, across classes; nothing but the images at work and
the best crop of each is kept.

**Differs**: files and crops are drawn by seed (official: unseeded); scores are by log-softmax (official: the logarithm
of the softmax, infinite where that underflows); ties stand in the order images are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ddlib.checkpoints import Checkpoint
from ddlib.data.native import Native
from ddlib.data.real import RealData
from ddlib.events import NullEvents
from ddlib.progress import progress
from ddlib.sets.candidates import Cropping, drawn_files
from ddlib.sets.scores import ScoreTable

Observe = Callable[[Tensor], Tensor]
"""Normalised images [n, C, size, size] -> logits [n, classes], in evaluation mode."""
AT_ONCE = {"cpu": 64, "cuda": 1024}
"""Crops the observer sees at once: more only leave the cache of a CPU."""


def pad(x: Tensor, size: int) -> Tensor:
    """Images [n, C, h, w] in the middle of zeros [n, C, size, size]; an odd line more lies below and right."""
    rows, cols = size - x.shape[2], size - x.shape[3]
    return F.pad(x, (cols // 2, cols - cols // 2, rows // 2, rows - rows // 2))


def scores(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy [n] float32 of logits [n, classes] with labels [n]: the less, the more realistic."""
    return F.cross_entropy(logits.float(), labels, reduction="none")


class _Judge:
    """Scores shares [n <= batch, C, side, side]: always `batch` images at once, so that one compilation serves all and
    no image's score depends on how many there are."""

    def __init__(self, observe: Observe, data: RealData, batch: int, size: int, device: str | torch.device) -> None:
        self.observe, self.data, self.size = observe, data, size
        self.input = torch.zeros(batch, data.channels, size, size, device=device)

    def __call__(self, shares: Tensor, labels: Tensor) -> Tensor:
        many, side = len(shares), shares.shape[2]
        first = (self.size - side) // 2
        centre = self.input[:, :, first : first + side, first : first + side]
        centre[:many] = self.data.normalise(shares.to(self.input.device))
        centre[many:] = 0
        with torch.no_grad():
            logits = self.observe(self.input)[:many]
        return scores(logits, labels.to(logits.device)).cpu()


@dataclass
class Best:
    """The best crop of each image so far: `score` [images] (infinite before the first) and `box` [images, 4]."""

    score: Tensor
    box: Tensor

    def take(self, image: Tensor, score: Tensor, box: Tensor) -> None:
        """Consider crops [n] of images [n], which stand in order."""
        order = np.lexsort((score.numpy(), image.numpy()))
        first = order[np.unique(image.numpy()[order], return_index=True)[1]]
        better = first[score.numpy()[first] < self.score[image[first]].numpy()]
        self.score[image[better]], self.box[image[better]] = score[better], box[better]

    def ascending(self, classes: int) -> Tensor:
        """Which image of each class comes first, second, ... [classes, images / classes]; ties as they stand."""
        return torch.sort(self.score.reshape(classes, -1), dim=1, stable=True).indices


def score_crops(
    native: Native,
    data: RealData,
    observe: Observe,
    *,
    classes: Sequence[int],
    mipc: int,
    crops: int,
    size: int,
    factor: int,
    seed: int,
    device: str | torch.device = "cpu",
    batch: int = 0,
    threads: int = 2,
    exclude: Tensor | None = None,
    checkpoint: Checkpoint | None = None,
    events: NullEvents | None = None,
    dataset: str = "",
    observer: str = "",
) -> ScoreTable:
    """Score `crops` crops of each of `mipc` images of each of `classes`.

    `native`: images as they came; `data`: says how they are normalised; `size`: pixels a side that `observe` takes, of
    which a crop fills size // factor; `batch`: crops judged at once (0: what suits the device); `threads`: that read;
    `exclude`: images (int64) that are not looked at; `checkpoint`: killed, it goes on from there; `dataset`,
    `observer`: digests the table is to hold. ValueError where a class has fewer images than mipc, or a score is no
    number.
    """
    _check(data, mipc, crops, size, factor)
    files = [drawn_files(native, label, mipc, seed, data.class_names[label], exclude) for label in classes]
    labels = torch.tensor(list(classes)).repeat_interleave(mipc)
    work = Cropping(native, torch.cat(files), labels, crops, size // factor, seed)
    judge = _Judge(observe, data, batch or AT_ONCE[torch.device(device).type], size, device)
    best = _judged(work, judge, threads, checkpoint, events)
    order = best.ascending(len(files))
    return ScoreTable(
        file=torch.stack(files).gather(1, order),
        box=best.box.reshape(len(files), mipc, 4).gather(1, order[:, :, None].expand(-1, -1, 4)),
        score=best.score.reshape(len(files), mipc).gather(1, order),
        classes=tuple(int(label) for label in classes),
        mipc=mipc,
        crops=crops,
        size=size,
        factor=factor,
        seed=seed,
        dataset=dataset,
        observer=observer,
    )


def _judged(
    work: Cropping, judge: _Judge, threads: int, checkpoint: Checkpoint | None, events: NullEvents | None
) -> Best:
    """The best crop of every image of `work`."""
    many, batch = len(work.file), len(judge.input)
    best = Best(torch.full((many,), torch.inf), torch.zeros(many, 4, dtype=torch.int32))
    done = _resume(checkpoint, best, batch)
    parts = work.batches(done * batch, batch, threads)
    total = -(-many * work.crops // batch)
    for turn in progress(range(done, total), "scoring crops", f"batches of {batch}", events, first=done):
        boxes, shares = next(parts)
        image = torch.arange(turn * batch, turn * batch + len(boxes)) // work.crops
        found = judge(shares, work.labels[image])
        if not bool(torch.isfinite(found).all()):
            wrong = work.file[image[int(torch.nonzero(~torch.isfinite(found))[0])]]
            name = work.native.names[int(wrong)]
            raise ValueError(f"the observer's score of a crop of {name} is no finite number: are its weights sound?")
        best.take(image, found, boxes)
        if checkpoint is not None and checkpoint.due:
            checkpoint.save({"score": best.score, "box": best.box}, {"batches": turn + 1, "batch": batch})
    return best


def _check(data: RealData, mipc: int, crops: int, size: int, factor: int) -> None:
    if min(mipc, crops, factor) < 1 or factor > size:
        raise ValueError(
            f"mipc, crops and factor are at least 1 and a crop has at least a pixel, not mipc {mipc}, crops {crops} "
            f"and factor {factor} at {size} px"
        )
    if data.space != "unit":
        raise ValueError(f"{data.name} is whitened: crops of other sizes cannot be. Name a data set without whitening.")


def _resume(checkpoint: Checkpoint | None, best: Best, batch: int) -> int:
    """Take over what was scored before; return how many batches that are (0 where batches had another size)."""
    found = checkpoint.load() if checkpoint else None
    if found is None or found[1]["batch"] != batch:
        return 0
    best.score, best.box = found[0]["score"], found[0]["box"]
    return int(found[1]["batches"])
