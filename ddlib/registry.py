"""Names of everything that can be asked for, without importing it (planning never loads torch).

A new method is one file in `ddlib/methods` and one line in `METHODS` (with its settings in `ddlib/presets.py`);
a network, a data source likewise. `version` numbers stand in for code: a job's specification holds the versions of
what it uses, so raising one reruns exactly the jobs whose results changed, and a moved comment reruns nothing.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Entry:
    """Where a thing is (``module:attribute``) and the version of its results."""

    where: str
    version: int = 1
    facts: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> Any:
        """Import and return the thing itself."""
        module, _, attribute = self.where.partition(":")
        return getattr(importlib.import_module(module), attribute)


_CIFAR = {
    "size": 32,
    "channels": 3,
    "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.2023, 0.1994, 0.2010),
    "base_size": 32,
    "images": (50_000, 10_000),
}

NORMALISATION = {"imagenet": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}}

_FOLDER = {"channels": 3, **NORMALISATION["imagenet"], "flip": True, "orders": ("official",), "folder": True}
_IMAGENET = {**_FOLDER, "base_size": 224, "paths": ("imagenet", "ILSVRC2012", "ILSVRC/Data/CLS-LOC")}


def _folder(**facts: Any) -> Entry:
    return Entry("ddlib.data.folder:prepare", facts={**_IMAGENET, **facts})


# What of the facts no specification holds.
UNTOLD = ("orders", "images", "folder", "paths", "list")

# `facts` of a source: its shape, the published normalisation, whether a flip keeps the label, base size of IDC's rule
# (none: as the images are); the orders it comes in, and how many images train and test have. Of image folders: how
# their folder is usually called, and the list of their classes in ddlib/data/lists (none: all, sorted). Their `size`
# is what is made of their images if nothing else is said. The images of classes drawn from ImageNet are counted
# when it is there: 1,300 a class at most.
SOURCES: dict[str, Entry] = {
    "digits": Entry(
        "ddlib.data.digits:load",
        facts={
            "classes": 10,
            "size": 8,
            "channels": 1,
            "mean": (0.3039,),
            "std": (0.3753,),
            "base_size": 8,
            "flip": False,
            "orders": ("official",),
            "images": (1438, 359),
        },
    ),
    "cifar10": Entry("ddlib.data.cifar:load", facts={**_CIFAR, "classes": 10, "flip": True, "orders": ("official",)}),
    "cifar100": Entry(
        "ddlib.data.cifar:load", facts={**_CIFAR, "classes": 100, "flip": True, "orders": ("official", "reordered")}
    ),
    "folder": Entry("ddlib.data.folder:prepare", facts=_FOLDER),
    "imagenet10": _folder(classes=10, size=224, list="imagenet10"),
    "imagenet100": _folder(classes=100, size=224, list="imagenet100"),
    "imagenet1k": _folder(classes=1000, size=224, images=(1_281_167, 50_000)),
    "imagenette": _folder(
        classes=10, size=224, list="imagenette", paths=("imagenette2", "imagenette"), images=(9469, 3925)
    ),
    "imagewoof": _folder(
        classes=10, size=224, list="imagewoof", paths=("imagewoof2", "imagewoof"), images=(9025, 3929)
    ),
    "imagefruit": _folder(classes=10, size=128, list="imagefruit"),
    "imagemeow": _folder(classes=10, size=128, list="imagemeow"),
    "imagesquawk": _folder(classes=10, size=128, list="imagesquawk"),
    "imageyellow": _folder(classes=10, size=128, list="imageyellow"),
    "tiny_imagenet": Entry(
        "ddlib.data.folder:prepare",
        facts={
            **_FOLDER,
            "classes": 200,
            "size": 64,
            "base_size": 64,
            "paths": ("tiny-imagenet-200", "tiny-imagenet"),
            "images": (100_000, 10_000),
        },
    ),
}

# `smallest`: side of the smallest images a network takes, whatever its options; grey images of 28 px count as 32.
NETWORKS: dict[str, Entry] = {
    "convnet": Entry("ddlib.nn.convnet:ConvNet"),
    "alexnet": Entry("ddlib.nn.alexnet:AlexNet", facts={"smallest": 8}),
    "vgg": Entry("ddlib.nn.vgg:VGG", facts={"smallest": 32}),
    "resnet": Entry("ddlib.nn.resnet:ResNet", facts={"smallest": 9}),
    "densenet": Entry("ddlib.nn.densenet:DenseNet", facts={"smallest": 8}),
    "torchvision": Entry("ddlib.nn.zoo:TorchVision"),
}

# `parts`: the shared components a method's condensation uses; `network`, `pool`, `masks`: whether it needs one;
# `horizon`: its view needs one; `discards`: what of the real images stages with `discard` choose (all, initial);
# `partitionable` (or so if it is not said): classes, and budgets, in jobs of their own; `native`, `observer`: whether
# it cuts crops from native images, and needs a network that scores them (`stages`: in stages, its own).
_MATCHING = ("streams", "packing", "augment", "gradient", "optim", "train", "driver")
METHODS: dict[str, Entry] = {
    "idc": Entry("ddlib.methods.idc:recipe", facts={"parts": _MATCHING, "network": True, "pool": "optional"}),
    "acc_dd": Entry(
        "ddlib.methods.acc_dd:recipe", facts={"parts": (*_MATCHING, "perturb"), "network": True, "pool": "required"}
    ),
    "drop2sparse": Entry(
        "ddlib.methods.drop2sparse:recipe",
        facts={"parts": (*_MATCHING, "masks"), "network": True, "pool": "required", "masks": True},
    ),
    "mtt": Entry(
        "ddlib.methods.mtt:recipe",
        facts={
            "parts": ("streams", "packing", "augment", "trajectory", "optim", "train", "driver"),
            "network": True,
            "pool": "required",
            "horizon": True,
            "discards": "initial",
            "partitionable": False,
        },
    ),
    "random": Entry(
        "ddlib.methods.coresets:recipe", facts={"parts": ("streams", "packing", "driver"), "network": False}
    ),
    "initial": Entry(
        "ddlib.methods.coresets:recipe", facts={"parts": ("streams", "packing", "driver"), "network": False}
    ),
    "rded": Entry(
        "ddlib.methods.rded:recipe",
        facts={
            "parts": ("streams", "packing", "augment", "scores", "driver"),
            "network": False,
            "native": True,
            "observer": True,
            "stages": True,
        },
    ),
    "crops": Entry(
        "ddlib.methods.rded:unscored",
        facts={"parts": ("streams", "packing", "augment", "scores", "driver"), "network": False, "native": True},
    ),
    "herding": Entry(
        "ddlib.methods.coresets:chosen", facts={"parts": ("streams", "packing", "scores", "driver"), "network": False}
    ),
    "kmeans": Entry(
        "ddlib.methods.coresets:chosen", facts={"parts": ("streams", "packing", "scores", "driver"), "network": False}
    ),
}

# Shared components: raise a number when results of the component change (tests/test_versions.py tells).
COMPONENTS: dict[str, int] = {
    "streams": 1,
    "data": 1,
    "whitening": 1,
    "packing": 1,
    "augment": 1,
    "gradient": 1,
    "trajectory": 1,
    "optim": 1,
    "perturb": 1,
    "masks": 1,
    "train": 1,
    "driver": 1,
    "condition": 1,
    "pool": 2,
    "view": 1,
    "observer": 1,
    "scores": 1,
    "labels": 1,
    "sets": 1,
    "evaluate": 1,
    "table": 1,
}


def versions(*parts: str, **entries: Entry) -> dict[str, int]:
    """What a job's specification says of the code it uses: component name -> version."""
    found = {part: COMPONENTS[part] for part in parts}
    return {**found, **{name: entry.version for name, entry in entries.items()}}


def nearest(name: str, known: Iterable[str]) -> str:
    """`` (nearest known: x)`` for an error message, or the list of what is known."""
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(names) if names else 'none'}."


def lookup(table: Mapping[str, Entry], name: str, what: str) -> Entry:
    """The entry called `name`, or a ValueError that names the nearest one."""
    if name not in table:
        raise ValueError(f"no {what} is called {name!r}: {nearest(name, table)}")
    return table[name]
