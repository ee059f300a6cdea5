"""Classifiers of torchvision by name, with new weights: MobileNetV2, EfficientNet-B0, ResNets, transformers and others.

``{architecture: torchvision, name: mobilenet_v2}``. They are torchvision's own, but for

- the head, of as many classes as asked, and the first convolution, of as many channels as images have;
- `small_stem` (residual networks): a 3x3 convolution of stride 1 and no max pool, as RDED (2023, arXiv 2312.03526;
  LINs-lab/RDED @ 3f6453d) and SRe2L have them for images of 32 and 64 px ("resnet18_modified");
- batch norm, which :func:`ddlib.nn.build` replaces by ours (the same numbers), and operations in place, which are not;
- `dropout: false`: without dropout and stochastic depth. Matching needs it: its draws would differ between real and
  synthetic images.

**Differs**: EfficientNet-B0 of IDC's evaluation is that of the package efficientnet_pytorch: batch norm's momentum is
0.01 and its eps 1e-3 there, and its convolutions pad by the size of the image. It has as many parameters.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ddlib import registry
from ddlib.nn.chance import remove_dropout

RESIDUAL = ("resnet", "resnext", "wide_resnet")  # what has a small stem


class TorchVision(nn.Module):
    """`channels` x `size` x `size` images [N, C, H, W] to logits [N, classes]. `name`: a classifier of torchvision's.

    ValueError for an unknown name, a small stem where there is none, and images that the network does not take.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        classes: int,
        name: str,
        small_stem: bool = False,
        dropout: bool = True,
    ) -> None:
        super().__init__()
        import torchvision.models as models

        if name not in models.list_models(module=models):
            known = models.list_models(module=models)
            raise ValueError(f"torchvision has no classifier called {name!r}: {registry.nearest(name, known)}")
        if min(channels, size, classes) < 1:
            raise ValueError(f"channels, size and classes are at least 1, not {(channels, size, classes)}")
        if small_stem and not name.startswith(RESIDUAL):
            raise ValueError(f"{name} has no small stem, residual networks ({', '.join(RESIDUAL)}) alone have one.")
        self.name, self.net = name, _made(name, size, classes)
        if channels != 3:
            _first_convolution(self.net, channels)
        if small_stem:
            _small_stem(self.net, channels)
        for layer in self.net.modules():
            if getattr(layer, "inplace", False) is True:
                layer.inplace = False  # type: ignore[assignment]
        if not dropout:
            remove_dropout(self.net)
        self._takes(channels, size)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits

    def _takes(self, channels: int, size: int) -> None:
        """ValueError unless the network takes images of `size` px: a forward of shapes alone."""
        state = {**dict(self.net.named_parameters()), **dict(self.net.named_buffers())}
        shapes = {name: torch.empty_like(value, device="meta") for name, value in state.items()}
        images = torch.empty(2, channels, size, size, device="meta")
        was = self.net.training
        try:
            torch.func.functional_call(self.net.eval(), shapes, (images,))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ValueError(_refusal(self.name, size, error)) from None
        finally:
            self.net.train(was)


def _made(name: str, size: int, classes: int) -> nn.Module:
    """Torchvision's network. ValueError where it already refuses the size."""
    import torchvision.models as models

    told: dict[str, Any] = {}
    if name.startswith("vit_"):
        told = {"image_size": size}
    if name.startswith("maxvit"):
        told = {"input_size": (size, size)}
    if name in ("googlenet", "inception_v3"):
        told = {"aux_logits": False, "init_weights": True}
    try:
        net: nn.Module = models.get_model(name, weights=None, num_classes=classes, **told)
    except (ValueError, AssertionError) as error:
        raise ValueError(_refusal(name, size, error)) from None
    return net


def _refusal(name: str, size: int, error: Exception) -> str:
    reason = str(error).strip().split("\n")[0][:160]
    return f"{name} of torchvision takes no images of {size} px: use larger ones ({reason})."


def _small_stem(net: nn.Module, channels: int) -> None:
    outputs = net.get_submodule("conv1").get_parameter("weight").shape[0]
    first = nn.Conv2d(channels, outputs, 3, 1, 1, bias=False)
    nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's own
    net.set_submodule("conv1", first)
    net.set_submodule("maxpool", nn.Identity())


def _first_convolution(net: nn.Module, channels: int) -> None:
    """Put one of `channels` inputs, in PyTorch's initialisation, in the place of the first convolution."""
    name, old = next((name, layer) for name, layer in net.named_modules() if isinstance(layer, nn.Conv2d))
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    net.set_submodule(name, new)
