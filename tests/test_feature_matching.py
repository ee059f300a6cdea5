"""Feature matching: over classes, against its formula, and its errors (values: test_parity)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ddlib.nn.functional import Params
from ddlib.objectives.gradient import match_features


def test_feature_matching_under_vmap_and_its_errors() -> None:
    generator = torch.Generator().manual_seed(0)
    stored, real = (torch.rand(2, 3, 1, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2))

    def features(params: Params, x: Tensor) -> list[Tensor]:
        return [x * params["w"], (x * params["w"]).square()]

    def match(stored: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        return match_features(features, {"w": torch.tensor(2.0)}, lambda x: x, stored, real, 1, 1)

    loop = [torch.stack(parts) for parts in zip(*map(match, stored, real), strict=True)]
    torch.testing.assert_close(torch.func.vmap(match)(stored, real), tuple(loop), rtol=0, atol=1e-12)
    expected = ((4 * stored[0].square()).mean(0) - (4 * real[0].square()).mean(0)).square().sum()
    torch.testing.assert_close(loop[0][0], expected)
    with pytest.raises(ValueError, match="blocks 1 to 2: the network has 0 to 1"):
        match_features(features, {"w": torch.tensor(2.0)}, lambda x: x, stored[0], real[0], 1, 2)
