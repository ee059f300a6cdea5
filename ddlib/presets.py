"""Published settings as literals: per method, data source and protocol. Values in config.yaml override them.

Every number is the paper's (or its official code's where the paper is silent); what is ours is marked `ours`.
A setting's type is that of its default here, so a misspelt or mistyped one is refused before any job.
"""

from __future__ import annotations

from typing import Any

# IDC: Kim et al., Dataset Condensation via Efficient Synthetic-Data Parameterization, ICML 2022, arXiv 2205.14959;
# snu-mllab/Efficient-Dataset-Condensation @ ceac95a (argument.py, misc/reproduce.py).
_IDC: dict[str, Any] = {
    "factor": 2,  # multi-formation: a stored image holds factor x factor images
    "decode": "single",  # single | multi | bound, while condensing; evaluation decodes with `single`
    "decode_limit": 128,  # at most so many decoded images per class under `bound`
    "init": "mix",  # mix | first | random | noise
    "match": "gradient",  # gradient | feature
    "metric": "mse",  # mse | l1 | l1_mean | cos
    "matched": "conv",  # conv | conv_fc | all: the parameters whose gradients are compared
    "outer_iterations": 2000,  # networks drawn
    "inner_steps": 100,  # image updates per network
    "real_batch": 64,  # real images per class and step
    "synthetic_batch": 128,  # at most so many decoded images per class and step
    "image_lr": 5e-3,  # before the rule x ipc/10 x (size/base size)^2
    "image_momentum": 0.5,
    "match_augment": "color_crop_cutout",  # one draw for real and synthetic images
    "network_lr": 0.01,
    "network_momentum": 0.9,
    "network_weight_decay": 5e-4,
    "network_batch": 64,
    "network_samples": 2000,  # real images the network trains on between two image updates
    "network_augment": "color_crop",  # per image
    "network_mix_probability": 0.5,  # CutMix
    "network_mix_beta": 1.0,
    "pretrain_epochs": 0,  # whole epochs on real data before the first image update (ImageNet-10: 10)
}

# method -> "default" and one entry per data source with what differs.
METHOD_SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "idc": {
        "default": _IDC,
        "cifar10": {},
        "cifar100": {},
        # ours: 8x8 scans are not published with IDC. Too small to hold four in one; the first images of a class are
        # less varied than random ones (at ipc 10: 87 % against 97 %). All chosen on a held-out fifth of train.
        "digits": {
            "factor": 1,
            "init": "random",
            "image_lr": 0.02,
            "outer_iterations": 10,
            "inner_steps": 20,
            "network_samples": 256,
        },
    },
    # Baselines: real images picked and packed. `initial` is added with the init and factor of each experiment.
    "random": {"default": {"init": "random", "factor": 1, "outer_iterations": 0}},
    "initial": {"default": {"init": "first", "factor": 1, "outer_iterations": 0}},
}

# Training of pool members. `idc`: the official pretrain.py (and Acc-DD's): the network's own recipe of condensation.
POOL_TRAINING: dict[str, dict[str, Any]] = {
    "idc": {
        "epochs": 10,
        "lr": 0.01,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "batch": 64,
        "augment": "color_crop",
        "dialect": "idc",
        "mix_probability": 0.5,
        "mix_beta": 1.0,
        "decay_at": [],  # shares of the epochs at which the learning rate is multiplied by decay_factor
        "decay_factor": 0.2,
        "record_events": False,  # per-example forgetting counts and EL2N
    },
}

# How students are trained: the official test.py of IDC, also what `common` fixes for every method.
_STUDENT: dict[str, Any] = {
    "batch": 64,
    "lr": 0.01,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "augment": "color_crop_flip_scale_rotate",
    "dialect": "idc",
    "mix_probability": 0.5,
    "mix_beta": 1.0,
    "decay_at": [2 / 3, 5 / 6],
    "decay_factor": 0.2,
    "repeats": 3,
}

# How long they are trained and scored. Accuracy is that of the last epoch.
PROTOCOLS: dict[str, dict[str, Any]] = {
    # 1000 epochs, 3 repeats; `whole`: 300 epochs of 782 steps on CIFAR, the official train.py.
    "idc": {**_STUDENT, "epochs": 1000, "steps": 0, "whole_steps": 234_600},
    # ours: the same number of steps for every method and ipc.
    "common": {**_STUDENT, "epochs": 0, "steps": 10_000, "whole_steps": 10_000},
}
# Settings that may be given per data set, such as `steps: {cifar10: 10000, cifar100: 20000}`.
PER_DATASET = ("epochs", "steps", "whole_steps")

NETWORK_DEFAULTS: dict[str, dict[str, Any]] = {
    "convnet": {"depth": 3, "width": 128, "norm": "instance", "activation": "relu", "pooling": "avg"},
}

# What a setting of a name may be: tests/test_config.py compares with the modules that read it.
CHOICES: dict[str, tuple[str, ...]] = {
    "decode": ("single", "multi", "bound"),
    "init": ("mix", "first", "random", "noise"),
    "match": ("gradient", "feature"),
    "metric": ("mse", "l1", "l1_mean", "cos"),
    "matched": ("conv", "conv_fc", "all"),
    "dialect": ("idc", "mtt"),
    "norm": ("instance", "batch", "layer", "group", "none"),
    "activation": ("relu", "leakyrelu", "sigmoid"),
    "pooling": ("avg", "max", "none"),
}
AUGMENTATIONS = ("color", "crop", "cutout", "flip", "scale", "rotate")
# Numbers that cannot be 0.
POSITIVE = (
    "factor", "decode_limit", "inner_steps", "real_batch", "synthetic_batch", "network_batch", "batch", "repeats",
    "whole_steps", "depth", "width", "mix_beta", "network_mix_beta", "lr", "network_lr", "image_lr", "decay_factor",
)  # fmt: skip

MACHINE: dict[str, Any] = {
    "data_dir": "data",
    "download": False,
    "device": "auto",  # auto | cpu | cuda
    "threads": 1,  # CPU threads of a job
    "class_chunk": 0,  # classes matched at once; 0: 1 where compiled on the CPU, else measured default
    "compile": "auto",  # auto | always | never
    "precision": "fp32",  # fp32 | tf32 | bf16
    "tracking": "local",  # local | none
    "checkpoint_seconds": 60,
}
