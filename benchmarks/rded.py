"""RDED's scoring: images and crops per second of ddlib against a loop over classes, on the same files in one run.

    python -m benchmarks.rded FOLDER [--size 128] [--factor 2] [--crops 5] [--mipc 60] [--threads 2] [--width 16]

`FOLDER`: a folder of images for each class. The baseline goes about it as the official code does (LINs-lab/RDED @
3f6453d, in our own words): a data loader of four workers whose batch is one class, files opened by Pillow and made
floats as a whole, one random crop and its resizing after the other, normalised, all crops of the class brought into the
order of crops and padded at once, scored by the observer in chunks of as many crops as there are images. It and ddlib
take turns; the observer is the same, in fp32. ddlib compiles it, as its jobs do where there is enough to do; the time
that takes (once, whatever the number of images) is not in the seconds, and ddlib without it is measured too.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.machine import device_name
from ddlib import nn as networks
from ddlib.data.decode import decode
from ddlib.data.real import RealData
from ddlib.sets.candidates import Cropping, drawn_files
from ddlib.sets.realism import score_crops
from ddlib.train.compiler import EAGER, Compiler, decide
from ddlib.train.loop import State
from ddlib.train.scoring import Scorer

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Folder:
    """Native images of a folder of class folders, the first `most` of each."""

    scale = 255.0

    def __init__(self, root: Path, most: int) -> None:
        folders = sorted(path for path in root.iterdir() if path.is_dir())
        self.files = [file for folder in folders for file in sorted(folder.iterdir())[:most]]
        labels = [label for label, folder in enumerate(folders) for _ in sorted(folder.iterdir())[:most]]
        self.labels, self.heldout = torch.tensor(labels), torch.zeros(len(labels), dtype=torch.bool)
        self.names = tuple(map(str, self.files))
        self.classes = tuple(folder.name for folder in folders)

    def read(self, i: int) -> Tensor:
        """Image `i`, uint8 [3, H, W]."""
        return decode(self.files[i].read_bytes(), self.names[i])


class Crops(Dataset[tuple[Tensor, int]]):
    """All crops of an image, as a transform of each file."""

    def __init__(self, native: Folder, side: int, crops: int) -> None:
        self.native, self.crops = native, crops
        self.crop = transforms.RandomResizedCrop(side, ratio=(1, 1), antialias=True)
        self.float, self.normalise = transforms.ToTensor(), transforms.Normalize(MEAN, STD)

    def __len__(self) -> int:
        return len(self.native.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with Image.open(self.native.files[index]) as picture:
            image = self.float(picture.convert("RGB"))
        crops = torch.stack([self.crop(image) for _ in range(self.crops)])
        return self.normalise(crops), int(self.native.labels[index])


def per_class(native: Folder, net: nn.Module, size: int, factor: int, crops: int, mipc: int) -> Tensor:
    """The best score of each image [classes, mipc], class after class."""
    of_class = [torch.nonzero(native.labels == label).flatten()[:mipc].tolist() for label in range(len(native.classes))]
    loader = DataLoader(Crops(native, size // factor, crops), batch_sampler=of_class, num_workers=4)
    found = []
    with torch.no_grad():
        for images, labels in loader:
            x = images.transpose(0, 1).reshape(-1, *images.shape[2:])
            side = x.shape[2]
            first = (size - side) // 2
            x = F.pad(x, (first, size - side - first) * 2)
            logits = torch.cat([net(part) for part in torch.split(x, mipc)])
            score = -torch.log(F.softmax(logits, 1).gather(1, labels.repeat(crops)[:, None]))[:, 0]
            found.append(score.reshape(crops, mipc).min(0).values.sort().values)
    return torch.stack(found)


def data_of(native: Folder, size: int) -> RealData:
    """What scoring asks of a data set: its normalisation and its classes."""
    images = torch.zeros(len(native.labels), 3, 1, 1, dtype=torch.uint8).expand(-1, -1, size, size)
    facts: dict[str, Any] = {"mean": MEAN, "std": STD, "flip": True, "name": "folder", "scale": 255.0}
    return RealData(images, native.labels, native.classes, heldout=native.heldout, **facts)


def seconds(call: Callable[[], object]) -> tuple[float, float]:
    """(wall-clock seconds, CPU seconds of this process and its workers) of a call."""
    began, before = time.perf_counter(), sum(os.times()[:4])
    call()
    return time.perf_counter() - began, sum(os.times()[:4]) - before


def options() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(prog="python -m benchmarks.rded", description=__doc__)
    found.add_argument("folder", type=Path)
    for name, value in {"size": 128, "factor": 2, "crops": 5, "mipc": 60, "width": 16, "repeats": 3}.items():
        found.add_argument(f"--{name}", type=int, default=value)
    found.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    found.add_argument("--batch", type=int, default=0)
    found.add_argument("--resnet", action="store_true", help="a ResNet-18 with batch norm instead of a small ConvNet")
    return found


def observer(given: argparse.Namespace, classes: int) -> nn.Module:
    """An untrained network: what it says costs the same."""
    small = {"architecture": "convnet", "depth": 5, "width": given.width, "norm": "batch"}
    resnet = {"architecture": "resnet", "depth": 18, "norm": "batch"}
    net = networks.build(resnet if given.resnet else small, channels=3, size=given.size, classes=classes, seed=0)
    return net.eval()


def main() -> None:
    """Entry point."""
    given = options().parse_args()
    torch.set_num_threads(given.threads)
    native = Folder(given.folder, given.mipc)
    data, net = data_of(native, given.size), observer(given, len(native.classes))
    labels = range(len(native.classes))
    how = {name: getattr(given, name) for name in ("mipc", "crops", "size", "factor")}

    def ours(compiler: Compiler) -> Callable[[], object]:
        state, scorer = State.of(net), Scorer(net, "cpu", compiler)
        rest: dict[str, Any] = {"classes": labels, "batch": given.batch, "threads": given.threads, "seed": 0, **how}
        return lambda: score_crops(native, data, lambda x: scorer.forward(state.params, state.buffers, x), **rest)

    def reading() -> object:
        files = torch.cat([drawn_files(native, label, given.mipc, 0, "") for label in labels])
        work = Cropping(native, files, native.labels[files], given.crops, given.size // given.factor, 0)
        return [len(boxes) for boxes, _ in work.stream(0, given.threads)]

    def decoding() -> object:
        return [native.read(i) for i in range(len(native.files))]

    def judging() -> object:
        x = torch.zeros(given.batch or 64, 3, given.size, given.size)
        with torch.no_grad():
            return [net(x) for _ in range(-(-len(native.files) * given.crops // len(x)))]

    calls = {"per class": lambda: per_class(native, net, **how), "ddlib": ours(decide("always", "cpu", 0))}
    calls |= {"ddlib, not compiled": ours(EAGER), "reading and cropping": reading}
    calls |= {"reading (one thread)": decoding, "observer, not compiled": judging}
    both = {name: tuple(map(min, zip(*turns, strict=True))) for name, turns in _turns(calls, given.repeats).items()}
    times = {name: wall for name, (wall, _) in both.items()}
    images = len(native.files)
    print(f"{device_name('cpu')}, {given.threads} threads, {images} images, {given.crops} crops each, {given.size} px")
    for name, taken in times.items():
        rates = f"{images / taken:8.1f} images/s {images * given.crops / taken:9.1f} crops/s"
        print(f"{name:22} {taken:7.2f} s {rates} {both[name][1]:7.2f} CPU s")
    wall, cpu = (both["per class"][i] / both["ddlib"][i] for i in range(2))
    print(f"ddlib is {wall:.2f} times as fast ({cpu:.2f} in CPU seconds)")
    share = times["reading and cropping"] / times["ddlib"]
    bound = "reading and cropping" if share > 0.5 else "the observer"
    print(f"bound by {bound}: reading and cropping alone take {share:.0%} of ddlib's time")


def _turns(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds of each call, in turns, after each was called once."""
    for call in calls.values():
        call()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            found[name].append(seconds(call))
    return found


if __name__ == "__main__":
    main()
