"""How many bytes a teacher's labels take, before they are made. Nothing here imports torch.

RDED and SRe2L label every view of every epoch: at 1000 classes that is some forty times the bytes of the images. What a
view is takes some 20 bytes; what the teacher says of it 2 a class (fp16), or with `top_k` 4 for each class that is kept
and 4 for all the others together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_FLOAT, _SIDE, _PLACE, _SMALL = ("float32", 4), ("int16", 2), ("int32", 4), ("int8", 1)
# name of a draw -> (type it is kept in, bytes). Others: float32.
KEPT: dict[str, tuple[str, int]] = {
    **dict.fromkeys(("crop_rows", "crop_cols", "cutout_rows", "cutout_cols", "box"), _SIDE),
    **dict.fromkeys(("columns", "rows", "jitter_order", "choice"), _SMALL),
    **dict.fromkeys(("order", "permutation"), _PLACE),
}
# group of augmentations -> draw -> numbers an image, by dialect; "grid": as many as patches a side.
_CROPS: dict[str, dict[str, Any]] = {
    "shuffle": {"columns": "grid", "rows": "grid"},
    "resized": {"box": 4},
    "flip": {"flip": 1},
    "jitter": {"jitter": 3, "jitter_order": 3},
    "lighting": {"lighting": 3},
}
_SIAMESE: dict[str, dict[str, Any]] = {
    "color": {"brightness": 1, "saturation": 1, "contrast": 1},
    "crop": {"crop_rows": 1, "crop_cols": 1},
    "cutout": {"cutout_rows": 1, "cutout_cols": 1},
    "flip": {"flip": 1},
    "scale": {"scale_x": 1, "scale_y": 1},
    "rotate": {"angle": 1},
}
PRECISIONS = {"fp16": 2, "fp32": 4}


def kept_as(name: str, crops: bool) -> tuple[str, int]:
    """(type, bytes) that a draw is kept in. `crops`: in the dialect of that name, where a flip is 0 or 1."""
    return _SMALL if crops and name == "flip" else KEPT.get(name, _FLOAT)


def logit_bytes(classes: int, precision: str = "fp16", top_k: int = 0) -> int:
    """Bytes of what a teacher says of one image. ValueError for a precision there is not or too large a `top_k`."""
    if precision not in PRECISIONS or not 0 <= top_k <= classes:
        raise ValueError(
            f"logits are kept in {' or '.join(PRECISIONS)}, of 0 (all) to {classes} classes, not in {precision} of "
            f"{top_k}"
        )
    if top_k in (0, classes):
        return classes * PRECISIONS[precision]
    return top_k * (PRECISIONS[precision] + (2 if classes <= 2**15 else 4)) + 4


def static(images: int, classes: int, precision: str = "fp32", top_k: int = 0) -> int:
    """Bytes of one label for each of `images` decoded images."""
    return images * logit_bytes(classes, precision, top_k)


def per_view(
    protocol: Mapping[str, Any],
    images: int,
    classes: int,
    grid: int = 1,
    epochs: int = 0,
    precision: str = "fp16",
    top_k: int = 0,
) -> int:
    """Bytes of the labels of every view of `images` decoded images in `epochs` epochs (0: the protocol's).

    `protocol`: resolved (ddlib/protocol_settings.py); `grid`: patches a side of the images.
    """
    batch, passes = int(protocol["batch"]), epochs or passes_of(protocol, images)
    batches = -(-images // min(batch, images))
    shown = batch * sum(_view_bytes(protocol, grid).values()) + _mix_bytes(protocol)
    return passes * (batches * shown + images * (_PLACE[1] + logit_bytes(classes, precision, top_k)))


def planned(spec: Mapping[str, Any], images: int, classes: int, grid: int) -> int:
    """Bytes of the labels that a specification of the rule `relabel` asks for, of `images` decoded images."""
    how = {"precision": spec["precision"], "top_k": spec["top_k"]}
    if spec["kind"] == "static":
        return static(images, classes, **how)
    return per_view(spec["protocol"], images, classes, grid, spec["epochs"], **how)


def passes_of(protocol: Mapping[str, Any], images: int) -> int:
    """Passes over `images` that students of a protocol make, the last perhaps not to its end."""
    per_pass = -(-images // min(protocol["batch"], images))
    return int(-(-protocol["steps"] // per_pass) if protocol["steps"] else protocol["epochs"])


def _view_bytes(protocol: Mapping[str, Any], grid: int) -> dict[str, int]:
    """Bytes an image of each draw."""
    crops = protocol.get("dialect", "idc") == "crops"
    cells = grid if protocol.get("grid", "none") == "set" else 1
    groups = [group for group in protocol["augment"].split("_") if group not in ("", "none")]
    least = (protocol.get("crop_area") or [1 / cells])[0]
    idle = {"shuffle": cells == 1, "resized": least == 1 and cells == 1} if crops else {}
    found: dict[str, int] = {}
    for group in groups:
        draws = {} if idle.get(group, False) else (_CROPS if crops else _SIAMESE)[group]
        for name, many in draws.items():
            found[name] = kept_as(name, crops)[1] * (cells if many == "grid" else many)
    return found


def _mix_bytes(protocol: Mapping[str, Any]) -> int:
    """Bytes a batch of how it is mixed, and of the operation picked."""
    dialect, groups = protocol.get("dialect", "idc"), set(protocol["augment"].split("_")) - {"", "none"}
    picks = {"crop", "scale", "rotate"} & groups if dialect == "idc" else groups if dialect == "mtt" else set()
    box = 4 * _SIDE[1] if protocol.get("mix", "cutmix") == "cutmix" else 0
    return int(protocol["batch"]) * _PLACE[1] + _FLOAT[1] + box + (_SMALL[1] if picks else 0)
