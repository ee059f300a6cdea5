"""A picture of a synthetic set: its images at the beginning and at the end, and what they decode to, class by class."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ddlib.sets.dataset import stored_colours, true_colours
from ddlib.sets.synthetic import SyntheticSet
from ddlib.writing import atomic_write

ROWS, COLUMNS = 20, 10
# Inches of an image, at most.
LARGEST = 0.96


def preview(made: SyntheticSet, initial: SyntheticSet, path: str | Path, title: str) -> None:
    """Write a PNG: for up to 20 classes, up to 10 images each, initial (where it is another) and final.

    Decoded too where factor > 1. True colours, clipped to 0-1; every row carries its class name.
    """
    from matplotlib.figure import Figure

    made, initial = _shown(made), _shown(initial)
    stored = {"initial": initial, "final": made} if not torch.equal(initial.images, made.images) else {"final": made}
    panels = {name: _grid(stored_colours(each), each.labels) for name, each in stored.items()}
    if made.factor > 1:
        images, labels = made.decode()
        panels["final, decoded"] = _grid(true_colours(made, images), labels)
    rows, height = sorted(set(made.labels.tolist())), made.images.shape[2]
    shapes = [panel.shape[1] for panel in panels.values()]
    scale = min(max(0.02, min(0.06, 0.5 / height)), LARGEST / height)
    figure = Figure(
        figsize=(1.6 + sum(shapes) * scale + 0.3 * len(panels), 1.0 + len(rows) * height * scale), layout="constrained"
    )
    axes = figure.subplots(1, len(panels), width_ratios=shapes, squeeze=False)[0]
    for axis, (name, panel) in zip(axes, panels.items(), strict=True):
        shown = panel.squeeze(2) if panel.shape[2] == 1 else panel
        axis.imshow(shown.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(name, fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    places = [(row + 0.5) * (height + 1) for row in range(len(rows))]
    axes[0].set_yticks(places, [made.class_names[label] for label in rows], fontsize=8)
    more = "" if len(rows) == len(made.class_names) else f" (first {len(rows)} of {len(made.class_names)} classes)"
    figure.suptitle(f"{title}{more}", fontsize=10)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})


def _shown(made: SyntheticSet) -> SyntheticSet:
    """The images that have a place in the picture."""
    rows = sorted(set(made.labels.tolist()))[:ROWS]
    return made.take(torch.cat([torch.nonzero(made.labels == label).flatten()[:COLUMNS] for label in rows]))


def _grid(images: Tensor, labels: Tensor) -> Tensor:
    """Images [N, C, H, W], shares 0-1, as one picture [height, width, C]: a row a class, lines of white between."""
    rows = []
    for label in sorted(set(labels.tolist())):
        shown = images[labels == label][:COLUMNS]
        rows.append(torch.cat(list(torch.nn.functional.pad(shown, (0, 1, 0, 1), value=1.0)), dim=2))
    widest = max(row.shape[2] for row in rows)
    rows = [torch.nn.functional.pad(row, (0, widest - row.shape[2]), value=1.0) for row in rows]
    return torch.cat(rows, dim=1).permute(1, 2, 0)
