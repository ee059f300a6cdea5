"""scikit-learn's digits: 1,797 real scans of handwritten digits, 8x8, bundled with the package: no download, the
default.

E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998 (its test
part); ``sklearn.datasets.load_digits``. Values 0-16 are kept as they are (`scale` 16). scikit-learn has no split: a
stratified fifth of every class (`TEST_SHARE` 0.2; 359 images) is the test part, drawn once from a fixed stream; both
parts keep the source's order.

**Differs**: none of the papers uses this data set; it is here so that everything runs in minutes on a CPU.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ddlib.data.real import RealData, stratified
from ddlib.data.source import part, verify

TEST_SHARE = 0.2
SCALE = 16.0
SHA256 = "65e5b4619795efb40c1082f4c350c049e4ad552200d369b6ae99e21eef5e72c5"


def load(spec: Mapping[str, Any], machine: Mapping[str, Any]) -> tuple[RealData, RealData]:
    """Read the digits: (train 1,438 images, test 359), [N, 1, 8, 8]. `spec`: the data set's specification; nothing of
    `machine` is used.

    ValueError where `spec` asks for another size, number of classes, channels or order than there is.
    """
    from sklearn.datasets import load_digits

    verify(spec, classes=10, size=8, channels=1, orders=("official",))
    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    if (found := hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()) != SHA256:
        raise ValueError(
            f"scikit-learn's digits are not the known ones (sha256 {found[:12]}.., expected {SHA256[:12]}..): "
            "install scikit-learn again, in the version of requirements.lock"
        )
    test = stratified(labels, TEST_SHARE, "digits test")
    names = tuple(str(digit) for digit in range(10))
    return (
        part(spec, images[~test], labels[~test], names, SCALE, train=True),
        part(spec, images[test], labels[test], names, SCALE, train=False),
    )
