"""From native pixels to a data set's working size: the shorter side resized, then the centre cut out.

As IDC (snu-mllab/Efficient-Dataset-Condensation) prepares ImageNet: torchvision's Resize and CenterCrop, bilinear with
antialiasing, on bytes. **Differs**: computed by torch on uint8, a level or so from Pillow's; of pictures longer than
`LONGEST` times their width only the middle is resized (the rest would be cut away).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

LONGEST = 16


def working(image: Tensor, size: int, shorter: int | None = None) -> Tensor:
    """uint8 [C, H, W] to [C, size, size]: the shorter side becomes `shorter` pixels (None: `size`), keeping the
    proportions, and the centre is kept."""
    shorter = max(size, shorter or size)
    image = centre(image, min(image.shape[1], LONGEST * image.shape[2]), min(image.shape[2], LONGEST * image.shape[1]))
    height, width = image.shape[1:]
    least = min(height, width)
    to = (shorter * height // least, shorter * width // least)
    if to != (height, width):
        image = F.interpolate(image[None], size=to, mode="bilinear", antialias=True, align_corners=False)[0]
    return centre(image, size, size)


def centre(image: Tensor, height: int, width: int) -> Tensor:
    """The middle [C, height, width] of an image, which must be as large; as torchvision's CenterCrop rounds."""
    top, left = round((image.shape[1] - height) / 2), round((image.shape[2] - width) / 2)
    return image[:, top : top + height, left : left + width]
