"""Whether a job compiles its hot functions, decided once and recorded."""

from __future__ import annotations

import contextlib
import importlib
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

F = TypeVar("F", bound=Callable[..., Any])
MODES = ("auto", "always", "never")
# A first compilation takes 20-40 s a function on the CPU: below so much estimated work, `auto` stays eager.
WORTH_FLOPS = {"cpu": 1e13, "cuda": 3e15}

# Kinds of batch (sizes of full and last batches, by stage; operations picked) that a function is compiled for at most.
VARIANTS = 64


@dataclass(frozen=True)
class Compiler:
    """`compiler(fn)` is `fn`, compiled or not; `reason` says why, for the log and ``*.run.json``."""

    enabled: bool
    reason: str

    def __call__(self, fn: F) -> F:
        if not self.enabled:
            return fn
        # Beyond torch's own limit (8) a function would go on eagerly, with but a warning.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VARIANTS)
        return torch.compile(fn, dynamic=False)  # type: ignore[return-value]


EAGER = Compiler(False, "eager")


class _Late:
    """In the place of a module of torch: a few names of it, and all others by importing it."""

    def __init__(self, module: str, **names: Any) -> None:
        self.__dict__.update(names, _module=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._module), name)


def spare_compiler() -> None:
    """Spare a process that compiles nothing the import of torch's compiler: more than a second, as long as many a job.

    `torch.func.grad` asks `torch._dynamo` for a context in which its compiled autograd is switched off. Before that
    module is imported there is nothing to switch off; whoever asks more of it, or imports it, gets the module itself.
    """
    if "torch._dynamo" not in sys.modules:
        autograd = _Late("torch._dynamo.compiled_autograd", _disable=contextlib.nullcontext)
        setattr(torch, "_dynamo", _Late("torch._dynamo", compiled_autograd=autograd))  # noqa: B010 - is no variable


def decide(mode: str, device: str, flops: float) -> Compiler:
    """Compile or not: `mode` auto, always or never; `flops`: floating-point operations the job will take, estimated.

    ValueError when `always` is asked without a C++ compiler. `auto` compiles where one is and the work is long enough.
    """
    if mode not in MODES:
        raise ValueError(f"compile is one of {', '.join(MODES)}, not {mode!r}")
    found = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if mode == "always" and not found:
        raise ValueError(
            "compile: always needs a C++ compiler (c++, g++ or clang++) on PATH; there is none. Install one, or set "
            "compile: auto."
        )
    if mode == "always":
        return Compiler(True, "compiled: asked for")
    if mode == "never":
        return Compiler(False, "eager: asked for")
    if not found:
        return Compiler(False, "eager: no C++ compiler on PATH")
    if flops < WORTH_FLOPS[device]:
        return Compiler(False, f"eager: {flops:.1e} operations are too few to earn a compilation back")
    return Compiler(True, f"compiled: about {flops:.1e} operations")


def forward_flops(net: nn.Module, shape: tuple[int, ...]) -> float:
    """Floating-point operations of the convolutions and linear layers in one forward of images [1, *shape].

    By hooks: torch's own counter takes two seconds to import, as long as many a job here.
    """
    found = 0.0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal found
        weight = layer.weight
        assert isinstance(weight, Tensor)
        places = output.numel() / weight.shape[0]
        found += 2.0 * places * weight.numel()

    layers = [layer for layer in net.modules() if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    was = net.training
    try:
        with torch.no_grad():
            net.eval()(torch.zeros(1, *shape, device=next(net.parameters()).device))
    finally:
        net.train(was)
        for hook in hooks:
            hook.remove()
    return found
