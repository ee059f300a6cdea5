"""Protocols whose settings depend on who is trained on what, resolved when a run is planned.

RDED gives a learning rate for each student and a batch size for each number of classes and images per class; a preset
has 0 there (and for what goes with the way to mix), a number of the user's own stands. Officially a student that is not
in the table trains at a rate of 0, an ipc that is not in it in batches of 0: here the one is refused, the other goes by
the largest ipc that is published and not above it. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import presets, presets_students

BY_STUDENT = "by_student"
# IDC on ImageNet subsets: most decoded images per class -> epochs; above, 300.
_EPOCHS = ((1, 3000), (10, 2000), (50, 1500), (200, 1000), (500, 500))


def evaluation_epochs(classes: int, factor: int, ipc: int, limit: int | None = None) -> int:
    """Epochs IDC trains a student for on ImageNet subsets, by the decoded images per class ipc * factor^2.

    `limit`: the bound on these, where the set was decoded with one. For 100 classes two thirds, cut to hundreds.
    (On 28 and 32 px data sets IDC always trains 1000.) snu-mllab/Efficient-Dataset-Condensation, ceac95a.
    """
    images = ipc * factor**2 if limit is None else min(ipc * factor**2, limit)
    epochs = next((epochs for most, epochs in _EPOCHS if images <= most), 300)
    return epochs * 2 // 3 // 100 * 100 if classes == 100 else epochs


def by_images(protocol: Mapping[str, Any], classes: int, factor: int, ipc: int) -> dict[str, Any]:
    """A protocol with the epochs of `epochs_by: images` for `ipc` images per class, each of factor x factor, in
    numbers; another comes back as it is. Epochs or steps of the user's own stand; `ipc` 0: all real images."""
    out = {key: value for key, value in protocol.items() if key != "epochs_by"}
    if protocol.get("epochs_by") == "images" and ipc and not (out["epochs"] or out["steps"]):
        out["epochs"] = evaluation_epochs(classes, factor, ipc)
    return out


def resolve(
    protocol: Mapping[str, Any],
    dataset: Mapping[str, Any],
    ipc: int,
    students: Mapping[str, Mapping[str, Any]],
    observer: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A protocol with numbers where its preset has 0, and what is otherwise for some students under `by_student`.

    `dataset`: a specification with source and classes; `ipc`: images per class (0: all real images); `students`: name
    -> network; `observer`: the network that the images were made with (None: one like the student). A protocol
    that depends on nothing comes back as it is. ValueError for a student whose rate is not known, and for settings that
    cannot be together.
    """
    if problem := together(protocol):
        raise ValueError(problem)
    out = dict(protocol)
    for key, value in presets_students.RDED_TABLES["mix"][out.get("mix", "cutmix")].items():
        if key in out and not out[key]:
            out[key] = value
    found = {key: _common(key, dataset, ipc) for key in ("batch", "lr") if not out[key]}
    out |= found
    own = {name: _own(name, network, dataset, observer, found) for name, network in students.items()}
    differs = {name: settings for name, settings in own.items() if settings}
    return {**out, BY_STUDENT: differs} if differs else out


def student_protocol(protocol: Mapping[str, Any], name: str, recorded: bool = False) -> dict[str, Any]:
    """A resolved protocol as one student is trained by. `recorded`: on views that are kept, whose batches stand."""
    common = {key: value for key, value in protocol.items() if key != BY_STUDENT}
    own = protocol.get(BY_STUDENT, {}).get(name, {})
    return {**common, **{key: value for key, value in own.items() if not (recorded and key == "batch")}}


def together(protocol: Mapping[str, Any]) -> str | None:
    """What of a protocol's settings cannot be together (None: nothing)."""
    groups = [group for group in protocol["augment"].split("_") if group not in ("", "none")]
    dialect = protocol.get("dialect", "idc")
    known = presets.CROPPINGS if dialect == "crops" else presets.AUGMENTATIONS
    if unknown := [group for group in groups if group not in known]:
        return f"the dialect {dialect} has no augmentation {unknown[0]!r}: it has {', '.join(known)}"
    if "shuffle" in groups and "resized" not in groups:
        return "shuffled patches may be fewer pixels than the image: augment with shuffle_resized"
    if protocol.get("bn_twice") and protocol.get("mix", "cutmix") != "cutmix":
        return "bn_twice stands for a second look at the same images, which mixup has not: use mix: cutmix"
    if protocol.get("restart_at_decay") and protocol.get("schedule_lr", "multistep") != "multistep":
        return "restart_at_decay needs a rate that falls in steps: use schedule_lr: multistep"
    return None


def kind_of(network: Mapping[str, Any]) -> str:
    """A network as the tables call it: `convnet3`, `resnet18`, or torchvision's name of it."""
    if network["architecture"] == "torchvision":
        return str(network["name"])
    defaults = presets.NETWORK_DEFAULTS.get(network["architecture"], {})
    return f"{network['architecture']}{network.get('depth', defaults.get('depth', ''))}"


def _common(key: str, dataset: Mapping[str, Any], ipc: int) -> Any:
    """The batch, or the rate of most students."""
    tables = presets_students.RDED_TABLES
    if key == "lr":
        return tables["lr"]["convnet3"]
    if dataset["source"] in tables["batch_of"]:
        batch = tables["batch_of"][dataset["source"]]
    else:
        row = _row(tables["batch"], dataset["classes"])
        batch = _row(row, ipc or max(row))
    return min(batch, ipc * dataset["classes"]) if ipc else batch


def _row(table: Mapping[int, Any], key: int) -> Any:
    """The entry of the largest key not above `key`, or of the smallest."""
    return table[max((known for known in table if known <= key), default=min(table))]


def _own(
    name: str,
    network: Mapping[str, Any],
    dataset: Mapping[str, Any],
    observer: Mapping[str, Any] | None,
    common: Mapping[str, Any],
) -> dict[str, Any]:
    """What of the settings that go by tables is otherwise for a student."""
    if not common:
        return {}
    kind, tables = kind_of(network), presets_students.RDED_TABLES
    own: dict[str, Any] = {}
    if "lr" in common:
        if kind not in tables["lr"]:
            raise ValueError(
                f"RDED's protocol has no learning rate for the student {name} ({kind}): it has them for "
                f"{', '.join(tables['lr'])}. Give `lr` in the protocol."
            )
        own["lr"] = tables["lr"][kind]
    if kind == kind_of(observer or network):
        own |= tables["exceptions"].get((dataset["source"], kind), {})
    return {key: value for key, value in own.items() if key in common and value != common[key]}
