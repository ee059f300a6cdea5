"""Settings that depend on who is trained on what, and settings that cannot be together."""

from __future__ import annotations

from typing import Any

import pytest

from ddlib import presets_students
from ddlib.protocol_settings import kind_of, resolve, student_protocol, together

RDED = presets_students.PROTOCOLS["rded"]
CONV3 = {"architecture": "convnet", "depth": 3, "version": 1}
C100 = {"source": "cifar100", "classes": 100}


@pytest.mark.parametrize("name", [name for name in presets_students.PROTOCOLS if name != "rded"])
def test_protocols_that_depend_on_nothing_stay_as_they_are(name: str) -> None:
    protocol = presets_students.PROTOCOLS[name]
    found = resolve(protocol, C100, 10, {"odd": {"architecture": "convnet", "depth": 9}})
    assert found == protocol
    assert list(found) == list(protocol)
    assert student_protocol(found, "odd") == protocol


@pytest.mark.parametrize("classes, ipc, batch", [
    (10, 1, 10), (10, 2, 10), (10, 9, 10), (10, 20, 50), (10, 200, 100), (100, 5, 20), (100, 30, 100), (20, 10, 50),
    (5, 1, 5), (5, 10, 50), (3, 10, 30), (1000, 50, 200), (10, 0, 100),
])  # fmt: skip
def test_every_number_of_images_has_a_batch(classes: int, ipc: int, batch: int) -> None:
    assert resolve(RDED, {"source": "folder", "classes": classes}, ipc, {})["batch"] == batch


def test_numbers_that_are_given_stand() -> None:
    given = {**RDED, "lr": 0.5, "batch": 7, "temperature": 3.0, "mix_beta": 2.0}
    found = resolve(given, C100, 10, {"odd": {"architecture": "convnet", "depth": 9}, "c": CONV3})
    assert found == given


def test_students_of_a_group_each_have_their_own() -> None:
    students: dict[str, Any] = {"c": CONV3, "m": {"architecture": "torchvision", "name": "mobilenet_v2"}}
    found = resolve(RDED, C100, 10, students)
    assert found["by_student"] == {"c": {"batch": 25, "lr": 2e-3}, "m": {"lr": 2.5e-3}}
    assert student_protocol(found, "m")["lr"] == 2.5e-3
    assert student_protocol(found, "c")["batch"] == 25
    assert student_protocol(found, "c", recorded=True)["batch"] == 100, (
        "views are kept in the batches they were made in"
    )
    assert "by_student" not in student_protocol(found, "c")
    other = resolve(RDED, C100, 10, students, {"architecture": "resnet", "depth": 18})
    assert "c" not in other["by_student"]


def test_unknown_students_are_named() -> None:
    with pytest.raises(ValueError, match=r"no learning rate for the student tiny \(convnet2\): .*Give `lr`"):
        resolve(RDED, C100, 10, {"tiny": {"architecture": "convnet", "depth": 2}})
    assert kind_of({"architecture": "alexnet"}) == "alexnet"
    assert kind_of({"architecture": "vgg"}) == "vgg11"


@pytest.mark.parametrize("over, said", [
    ({"augment": "color_crop"}, "dialect crops has no augmentation 'color'"),
    ({"augment": "shuffle_flip"}, "augment with shuffle_resized"),
    ({"augment": "resized", "dialect": "idc"}, "dialect idc has no augmentation 'resized'"),
    ({"bn_twice": True, "mix": "mixup"}, "use mix: cutmix"),
    ({"restart_at_decay": True}, "use schedule_lr: multistep"),
])  # fmt: skip
def test_what_cannot_be_together(over: dict[str, Any], said: str) -> None:
    assert said in str(together({**RDED, **over}))
    with pytest.raises(ValueError, match=said):
        resolve({**RDED, **over}, C100, 10, {})
    assert together(RDED) is None
