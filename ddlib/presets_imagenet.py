"""Settings for ImageNet, its subsets and Tiny-ImageNet, and torchvision's names: literals for ddlib/presets.py.

Every number is the paper's (or its official code's where the paper is silent); what is ours is marked `ours`.
"""

from __future__ import annotations

from typing import Any

# Classifiers of torchvision, so that a misspelt one is refused before any job.
_NAMES = """
    alexnet convnext_base convnext_large convnext_small convnext_tiny densenet121 densenet161 densenet169
    densenet201 efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5
    efficientnet_b6 efficientnet_b7 efficientnet_v2_l efficientnet_v2_m efficientnet_v2_s googlenet inception_v3
    maxvit_t mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small
    regnet_x_16gf regnet_x_1_6gf regnet_x_32gf regnet_x_3_2gf regnet_x_400mf regnet_x_800mf regnet_x_8gf
    regnet_y_128gf regnet_y_16gf regnet_y_1_6gf regnet_y_32gf regnet_y_3_2gf regnet_y_400mf regnet_y_800mf
    regnet_y_8gf resnet101 resnet152 resnet18 resnet34 resnet50 resnext101_32x8d resnext101_64x4d resnext50_32x4d
    shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0 squeezenet1_0 squeezenet1_1 swin_b
    swin_s swin_t swin_v2_b swin_v2_s swin_v2_t vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn vit_b_16
    vit_b_32 vit_h_14 vit_l_16 vit_l_32 wide_resnet101_2 wide_resnet50_2
"""
TORCHVISION = tuple(_NAMES.split())

# IDC: Kim et al., ICML 2022, arXiv 2205.14959; snu-mllab/Efficient-Dataset-Condensation @ ceac95a. Officially images
# are decoded with `single` up to ipc 10 and with `bound` from 20 on: `bound` decodes as `single` does as long as its
# limit is not reached (at factor 3 up to ipc 12, at 2 up to ipc 25), so it stands for both.
IDC_IMAGENET10: dict[str, Any] = {
    "factor": 3,
    "decode": "bound",
    "metric": "l1",
    "outer_iterations": 500,
    "image_lr": 3e-3,
    "network_samples": 500,
    "network_mix_probability": 1.0,
    "pretrain_epochs": 10,
}
# condense_mp.py, 5 phases of 20 classes: 64 real images a class and step whatever batch_real is, networks in batches of
# 128 on all classes. They start from epoch 5 of a pool.
IDC_IMAGENET100: dict[str, Any] = {
    **IDC_IMAGENET10,
    "image_lr": 1e-3,
    "network_lr": 0.1,
    "network_weight_decay": 1e-4,
    "network_batch": 128,
    "pretrain_epochs": 0,
}
# Acc-DD (CVPR 2023; ncsu-dk-lab/Acc-DD @ 3a8fdea) and Drop2Sparse (TCSVT 2025; DingFong/Drop2Sparse @ 139e1bb): IDC's
# without epochs before each outer iteration; both start from a pool.
FROM_POOL: dict[str, dict[str, Any]] = {
    "imagenet10": {**IDC_IMAGENET10, "pretrain_epochs": 0},
    "imagenet100": IDC_IMAGENET100,
}

# How networks are trained on ImageNet subsets, beside what differs from CIFAR, by number of classes.
BY_CLASSES: dict[int, dict[str, Any]] = {
    10: {"mix_probability": 1.0},
    100: {"mix_probability": 1.0, "lr": 0.1, "weight_decay": 1e-4, "batch": 128},
}
# IDC's pretrain.py: at a constant rate. Acc-DD's: 10 epochs, of which the rate falls after the 7th and the 9th.
EARLY: dict[str, Any] = {"epochs": 10, "decay_at": [0.7, 0.9], "decay_factor": 0.2}
# Students, and networks trained on all images (Drop2Sparse's pool): random crops of at least half the image, flips,
# colour jitter of 0.4 and lighting of 0.1, CutMix always.
CROPPED: dict[str, Any] = {
    "augment": "resized_flip_jitter_lighting",
    "dialect": "crops",
    "crop_area": [0.5, 1.0],
}
# Steps of students on all images: 300 epochs of about 203 and 990 steps, the official train.py.
WHOLE_STEPS: dict[int, int] = {10: 60_900, 100: 297_000}

# MTT: Cazenavette et al., CVPR 2022, arXiv 2203.11932; GeorgeCazenavette/mtt-distillation @ 50dccea. Rows as in
# ddlib/presets.py (steps, horizon, start_below, zca, image_lr, step_size_lr, step_size, batch), by ipc. ImageNet
# subsets: 128 px; image_lr is README's, its author writes 1e5 in issue 1.
MTT_TINY: dict[int, tuple[Any, ...]] = {
    1: (10, 2, 10, False, 1e4, 1e-4, 0.01),
    10: (20, 2, 40, False, 1e4, 1e-4, 0.01, 200),
    50: (20, 2, 40, False, 1e4, 1e-4, 0.01, 300),
}
MTT_SUBSETS = ("imagenette", "imagewoof", "imagefruit", "imageyellow", "imagemeow", "imagesquawk")
MTT_SUBSET: dict[int, tuple[Any, ...]] = {
    1: (20, 2, 10, False, 1e3, 1e-6, 0.01),
    10: (20, 2, 10, False, 1e3, 1e-6, 0.01, 20),
}
# PDD, over MTT: Chen et al., 2023, arXiv 2310.06982; VITA-Group/ProgressiveDD @ 844fa9a.
PDD_MTT_TINY: dict[int, tuple[Any, ...]] = {
    10: (20, 2, 20, False, 1e4, 1e-4, 0.01, 64),
    50: (20, 2, 20, False, 1e4, 1e-4, 0.01, 64),
}
# Published at this size, where a data source comes in any: (method, source) -> pixels.
SIZES: dict[tuple[str, str], int] = {("mtt", source): 128 for source in MTT_SUBSETS}
