"""ZCA whitening: pixels made uncorrelated and of like variance, in the orientation nearest to the images.

With X [N, D] the flattened training images as shares 0-1, mu their mean and C = (X - mu)^T (X - mu) / (N - 1) =
U S U^T: matrix T = U (S + eps)^-1/2 U^T, whitened y = (x - mu) T, inverse U (S + eps)^1/2 U^T. As used by MTT
(Cazenavette et al., "Dataset Distillation by Matching Training Trajectories", CVPR 2022, arXiv 2203.11932;
GeorgeCazenavette/mtt-distillation @ 50dccea, by kornia): eps 0.1, fitted on the un-augmented training images alone,
and the test images whitened by the same fit.

**Differs**: float64 throughout and an eigendecomposition of C (official: float32 and a singular value decomposition; T
is a function of C, so they agree to float32's last bits). Held-out images have no part in the fit.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddlib.artifacts import ArtifactError, content_hash, digest, load_tensors, save_tensors
from ddlib.data.real import RealData

FILE = "whitening.safetensors"
AT_ONCE = 5000


@dataclass(frozen=True, eq=False)
class Whitening:
    """A fit: `mean` [D], `matrix` and `inverse` [D, D], float64, on the CPU; D = C * H * W.

    `fitted`: digest of what it was fitted on and how. Two fits of one digest are the same transform but for rounding.
    """

    mean: Tensor
    matrix: Tensor
    inverse: Tensor
    fitted: str

    def apply(self, x: Tensor) -> Tensor:
        """Shares 0-1 [N, C, H, W], whitened, in the dtype and on the device of `x`."""
        return whiten(x, self.mean, self.matrix)

    def invert(self, y: Tensor) -> Tensor:
        """Whitened images [N, C, H, W] as shares (not clipped), in the dtype and on the device of `y`."""
        return unwhiten(y, self.mean, self.inverse)

    def save(self, path: str | Path) -> str:
        """Write one safetensors file; return its SHA-256."""
        tensors = {"mean": self.mean, "matrix": self.matrix, "inverse": self.inverse}
        return save_tensors(path, tensors, {"fitted": self.fitted, "content": content_hash(tensors)})

    @classmethod
    def load(cls, path: str | Path, sha256: str | None = None) -> Whitening:
        """Read what :meth:`save` wrote. ArtifactError where its content is not what was written."""
        tensors, facts = load_tensors(path, sha256)
        if facts.get("content") != content_hash(tensors):
            raise ArtifactError(f"{path} is damaged: its tensors are not those it was written with. Delete it.")
        return cls(**tensors, fitted=facts["fitted"])


def whiten(x: Tensor, mean: Tensor, matrix: Tensor) -> Tensor:
    """(x - mean) @ matrix of every image of `x` [N, C, H, W]; computed in float64."""
    return _by_parts(x, lambda flat: (flat - mean.to(flat)) @ matrix.to(flat))


def unwhiten(y: Tensor, mean: Tensor, inverse: Tensor) -> Tensor:
    """y @ inverse + mean of every image of `y` [N, C, H, W]; computed in float64."""
    return _by_parts(y, lambda flat: flat @ inverse.to(flat) + mean.to(flat))


def fit(images: Tensor, eps: float, scale: float = 1.0, fitted: str = "") -> Whitening:
    """The whitening of `images` [N, C, H, W] (N of at least 2; any dtype; a share 0-1 is images / `scale`).

    A rank below D is no obstacle, as `eps` > 0 keeps every direction finite. 22 s for the 50,000 images of CIFAR on
    one core.
    """
    if len(images) < 2 or not eps > 0:
        raise ValueError(f"whitening is fitted on at least 2 images with eps above 0, not on {len(images)} with {eps}")
    flat = images.flatten(1)
    mean = torch.stack([part.double().sum(0) for part in torch.split(flat, AT_ONCE)]).sum(0) / (scale * len(flat))
    covariance = torch.zeros(flat.shape[1], flat.shape[1], dtype=torch.float64, device=flat.device)
    for part in torch.split(flat, AT_ONCE):
        centred = part.double() / scale - mean
        covariance += centred.T @ centred
    variances, axes = torch.linalg.eigh(covariance / (len(flat) - 1))
    root = (variances + eps).sqrt()
    matrix, inverse = ((axes * scaling) @ axes.T for scaling in (1 / root, root))
    return Whitening(mean.cpu(), matrix.cpu(), inverse.cpu(), fitted)


def fitted(train: RealData, how: Mapping[str, Any], folder: str | Path) -> tuple[Whitening, Path]:
    """What `how` ({"kind": "zca", "eps", and the code's version}) asks for, fitted on the training images that are not
    held out, and its file in `folder` (that of the data set).

    A fit on the same images is taken over from there or from the folders beside it instead of being made again.
    """
    if how["kind"] != "zca":
        raise ValueError(f"whitening is zca, not {how['kind']!r}")
    seen, path = train.fit(), Path(folder) / FILE
    images = seen.tensors()["images"]
    wanted = digest([dict(how), seen.scale, content_hash({"images": images})])
    for other in dict.fromkeys((path, *sorted(path.parent.parent.glob(f"*/{FILE}")))):
        there = _stored(other)
        if there is not None and there.fitted == wanted:
            if other != path:
                there.save(path)
            return there, path
    made = fit(images, float(how["eps"]), seen.scale, wanted)
    made.save(path)
    return made, path


def _stored(path: Path) -> Whitening | None:
    """The fit at `path` (None: there is none, or it is damaged, which is said)."""
    if not path.is_file():
        return None
    try:
        return Whitening.load(path)
    except ArtifactError as error:
        warnings.warn(f"{error} It is not used.", stacklevel=3)
        return None


def whitened(data: RealData, by: Whitening) -> RealData:
    """A part of a data set (train or test) in whitened pixels: float32, mean 0 and std 1 (no normalisation besides)."""
    parts = torch.split(data.tensors()["images"], AT_ONCE)
    pixels = torch.cat([by.apply(part.double() / data.scale).float() for part in parts])
    ends = {"mean": (0.0,) * data.channels, "std": (1.0,) * data.channels}
    return dataclasses.replace(data, whitened=pixels, whitening=by.fitted, **ends)  # type: ignore[arg-type]


def _by_parts(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """`x` [N, C, H, W] with `change` of its images, flattened and in float64, in its own dtype."""
    parts = [change(part.flatten(1).double()).reshape(part.shape).to(x.dtype) for part in torch.split(x, AT_ONCE)]
    return torch.cat(parts) if parts else x
