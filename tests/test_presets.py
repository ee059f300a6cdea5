"""The paper's presets are the published ones: compared with the settings recorded from the authors' code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddlib import presets, registry
from ddlib.config import settings_problems

GOLDEN = Path(__file__).parent / "golden" / "idc_rules.npz"


def published(dataset: str) -> tuple[list[str], np.ndarray]:
    """(words, numbers) of the first published row of a data set."""
    rules = np.load(GOLDEN, allow_pickle=False)
    words = [str(row).split("|") for row in rules["preset_text_dataset_net_metric_decode_aug_mixup_mixupnet"]]
    row = next(i for i, word in enumerate(words) if word[0] == dataset)
    return words[row], rules["preset_classes_factor_ipc_depth_outer_lrimg_ndata_early"][row]


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_idc_presets_are_the_published_settings(dataset: str) -> None:
    known = presets.METHOD_SETTINGS["idc"]
    ours = {**known["default"], **known[dataset]}
    (_, _, metric, decode, augment, _, _), numbers = published(dataset)
    classes, factor, _, depth, outer, image_lr, samples, early = numbers
    assert (ours["metric"], ours["decode"], ours["match_augment"]) == (metric, decode, augment)
    assert (ours["factor"], ours["outer_iterations"], ours["network_samples"]) == (factor, outer, samples)
    assert ours["image_lr"] == pytest.approx(image_lr, rel=1e-15)
    assert ours["pretrain_epochs"] == early
    assert registry.SOURCES[dataset].facts["classes"] == classes
    assert presets.NETWORK_DEFAULTS["convnet"]["depth"] == depth


def test_every_override_is_a_setting_of_its_method_and_of_its_type() -> None:
    found: list[Any] = []
    for method, tables in presets.METHOD_SETTINGS.items():
        for source, table in tables.items():
            found += settings_problems(f"{method}.{source}", table, tables["default"])
    assert found == []
    assert set(presets.METHOD_SETTINGS) == set(registry.METHODS)
    assert set(presets.NETWORK_DEFAULTS) == set(registry.NETWORKS)
