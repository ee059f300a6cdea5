"""Published settings as literals: per method, data source and protocol. Values in config.yaml override them.

Every number is the paper's (or its official code's where the paper is silent); what is ours is marked `ours`.
A setting's type is that of its default here, so a misspelt or mistyped one is refused before any job.
"""

from __future__ import annotations

from typing import Any

from . import presets_imagenet as imagenet

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

# Acc-DD: Zhang et al., CVPR 2023, arXiv 2212.06152; ncsu-dk-lab/Acc-DD @ 3a8fdea (argument.py, misc/reproduce.py).
_ACC_DD: dict[str, Any] = {
    **_IDC,
    "speedup": 5,  # so many times fewer outer iterations than IDC's: 1 | 5 | 10 | 20
    "image_lr": 1e-2,
    "perturb": "filter",  # filter | layer | weight | unit_filter | unit_layer: how a direction is scaled
    "perturb_low": 0.01,  # sizes of the move, relative to the weights
    "perturb_high": 0.09,
    "perturb_directions": 2,
    "perturb_linear": True,  # the classifier moves too
    "perturb_one_dim": "zero",  # zero | copy: biases and gains stay, or are scaled
    "perturb_buffers": False,  # batch norm's statistics count as weights
}
# Drop2Sparse: IEEE TCSVT 2025; DingFong/Drop2Sparse @ 139e1bb. IDC's settings; 5x, 10x, 20x as in its abstract.
_DROP2SPARSE: dict[str, Any] = {**_IDC, "speedup": 1}

# MTT: Cazenavette et al., CVPR 2022, arXiv 2203.11932; GeorgeCazenavette/mtt-distillation @ 50dccea. What depends on
# the images per class is in MTT_BY_IPC; here is CIFAR-10 at ipc 10.
_MTT: dict[str, Any] = {
    "init": "random",
    "outer_iterations": 5000,
    "student_steps": 30,  # the student's steps on synthetic images (T)
    "student_batch": 0,  # images a step sees; 0: as many as are learned
    "image_lr": 100.0,  # of normalised images
    "image_momentum": 0.5,
    "step_size": 0.001,  # the student's learning rate, to begin with; it is learned
    "step_size_lr": 1e-5,
    "step_size_momentum": 0.5,
    "step_size_as": "raw",  # raw | positive: its logarithm is learned, with a first step of the same size
    "augment": "color_crop_cutout_flip_scale_rotate",
    "dialect": "mtt",
    "engine": "adjoint",  # adjoint | unroll | truncated (TESLA's approximation): how the gradient is computed
    "soft_labels": "none",  # none | expert: labels are what each iteration's expert says (TESLA)
}


def _mtt(
    steps: int, horizon: int, start_below: int, zca: bool, image_lr: float, step_size_lr: float, step_size: float,
    batch: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """A row of MTT's settings: those of the method, the view, and whether images are whitened."""
    moved = {"image_lr": image_lr, "step_size_lr": step_size_lr, "step_size": step_size}
    settings = {"student_steps": steps, "student_batch": batch, **moved}
    view = {"members": 100, "start_below": start_below, "horizon": horizon}
    return {"settings": settings, "view": view, "whitening": "zca" if zca else "none"}


# MTT's published settings by data source and ipc. README's table is an image with misprints: image_lr of CIFAR-10 at
# ipc 10 (there 1e5) is what its author names in issue 31.
MTT_BY_IPC: dict[str, dict[int, dict[str, Any]]] = {
    "cifar10": {
        1: _mtt(50, 2, 2, True, 1e2, 1e-7, 0.01),
        10: _mtt(30, 2, 20, True, 1e2, 1e-5, 0.001),
        50: _mtt(30, 2, 40, False, 1e3, 1e-5, 0.001),
    },
    "cifar100": {
        1: _mtt(20, 3, 20, True, 1e3, 1e-5, 0.01),
        10: _mtt(20, 2, 20, False, 1e3, 1e-5, 0.01),
        50: _mtt(80, 2, 40, True, 1e3, 1e-5, 0.01, 125),
    },
    "tiny_imagenet": {ipc: _mtt(*row) for ipc, row in imagenet.MTT_TINY.items()},
    **{source: {ipc: _mtt(*row) for ipc, row in imagenet.MTT_SUBSET.items()} for source in imagenet.MTT_SUBSETS},
}

# ours: 8x8 scans are not published with any of them. Too small to hold four in one; the first images of a class are
# less varied than random ones (at ipc 10: 87 % against 97 %). All chosen on a held-out fifth of train, with IDC.
_DIGITS: dict[str, Any] = {
    "factor": 1,
    "init": "random",
    "image_lr": 0.02,
    "outer_iterations": 10,
    "inner_steps": 20,
    "network_samples": 256,
}

# ours
_MTT_DIGITS: dict[str, Any] = {
    "outer_iterations": 40,
    "student_steps": 20,
    "image_lr": 30.0,
    "step_size": 0.02,
    "step_size_as": "positive",
    "augment": "color_crop_cutout_scale_rotate",
}

# RDED: Sun et al., On the Diversity and Realism of Distilled Dataset, CVPR 2024, arXiv 2312.03526; LINs-lab/RDED @
# 3f6453d. The shipped scripts' settings; factor 1 for 32 and 64 px, 2 for larger images.
_RDED: dict[str, Any] = {
    "factor": 2,  # factor x factor crops, of as many images, are stitched into one
    "mipc": 300,  # real images that are looked at per class; each gives one crop
    "crops": 5,  # crops tried of each
    "store": "lossless",  # lossless | jpeg75: bytes as they are, or through JPEG as the official code has it
    "outer_iterations": 0,
}

# method -> "default" and one entry per data source with what differs.
METHOD_SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "idc": {
        "default": _IDC,
        "cifar10": {},
        "cifar100": {},
        "imagenet10": imagenet.IDC_IMAGENET10,
        "imagenet100": imagenet.IDC_IMAGENET100,
        "digits": _DIGITS,
    },
    "acc_dd": {"default": _ACC_DD, "cifar10": {}, "cifar100": {}, **imagenet.FROM_POOL, "digits": _DIGITS},
    "drop2sparse": {"default": _DROP2SPARSE, "cifar10": {}, "cifar100": {}, **imagenet.FROM_POOL, "digits": _DIGITS},
    "mtt": {
        "default": _MTT,
        "cifar10": MTT_BY_IPC["cifar10"][10]["settings"],
        **{source: rows[10]["settings"] for source, rows in MTT_BY_IPC.items() if source != "cifar10"},
        "digits": _MTT_DIGITS,
    },
    # Baselines: real images picked and packed. `initial` is added with the init and factor of each experiment.
    "random": {"default": {"init": "random", "factor": 1, "outer_iterations": 0}},
    "initial": {"default": {"init": "first", "factor": 1, "outer_iterations": 0}},
    "rded": {
        "default": _RDED,
        "cifar10": {"factor": 1},
        "cifar100": {"factor": 1},
        "tiny_imagenet": {"factor": 1},
        "digits": {"factor": 1, "mipc": 100},  # ours
    },
    # Crops that nobody scored, stitched alike; coresets by distance between images, or between an observer's logits.
    "crops": {"default": {key: _RDED[key] for key in ("factor", "store", "outer_iterations")}, "digits": {"factor": 1}},
    "herding": {"default": {"init": "herding", "factor": 1, "features": "pixels", "outer_iterations": 0}},
    "kmeans": {"default": {"init": "kmeans", "factor": 1, "features": "pixels", "outer_iterations": 0}},
}

# Training of pool members: the official pretrain.py of IDC, the network's own recipe of condensation.
_PRETRAIN: dict[str, Any] = {
    "epochs": 10,
    "optimiser": "sgd",  # sgd | adam (betas 0.9 and 0.999, eps 1e-8; it has no use for momentum)
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
    "score_snapshots": True,  # a pass over clean images for every kept snapshot, and over augmented ones for epoch 0
}
# `acc_dd`: its pretrain.py, epoch 2 on CIFAR (10 on ImageNet subsets), at a constant rate: with so few epochs its
# schedule never falls. `drop2sparse`: its train.py, the recipe of students on all images, of which every epoch is kept.
# `mtt`: buffer.py of Cazenavette et al., CVPR 2022, arXiv 2203.11932; GeorgeCazenavette/mtt-distillation @ 50dccea.
# With its --decay the rate falls after epoch index 26 of 50: `decay_at: [0.54]`.
_WELL_TRAINED: dict[str, Any] = {
    **_PRETRAIN,
    "epochs": 300,
    "augment": "color_crop_flip_scale_rotate",
    "decay_at": [2 / 3, 5 / 6],
}
POOL_TRAINING: dict[str, dict[str, Any]] = {
    "idc": _PRETRAIN,
    "acc_dd": {**_PRETRAIN, "epochs": 2},
    "drop2sparse": _WELL_TRAINED,
    "mtt": {
        **_PRETRAIN,
        "epochs": 50,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "batch": 256,
        "augment": "color_crop_cutout_flip_scale_rotate",
        "dialect": "mtt",
        "mix_probability": 0.0,
        "decay_factor": 0.1,
        "score_snapshots": False,
    },
    "idc_imagenet10": {**_PRETRAIN, **imagenet.BY_CLASSES[10], **imagenet.EARLY},
    "idc_imagenet100": {**_PRETRAIN, **imagenet.BY_CLASSES[100], **imagenet.EARLY},
    "drop2sparse_imagenet10": {**_WELL_TRAINED, **imagenet.BY_CLASSES[10], **imagenet.CROPPED},
    "drop2sparse_imagenet100": {**_WELL_TRAINED, **imagenet.BY_CLASSES[100], **imagenet.CROPPED},
}
# Observers of RDED, whose training is not published (ours): on CIFAR that of SRe2L on CIFAR-100 (VILA-Lab/SRe2L @
# 8d00cba), on larger images torchvision's references for residual networks.
_OBSERVER: dict[str, Any] = {**_PRETRAIN, "lr": 0.1, "mix_probability": 0.0, "schedule_lr": "cosine"}
POOL_TRAINING["observer"] = {**_OBSERVER, "epochs": 200, "batch": 128, "augment": "crop_flip"}
POOL_TRAINING["observer_imagenet"] = {
    **_OBSERVER,
    "epochs": 90,
    "batch": 256,
    "weight_decay": 1e-4,
    "schedule_lr": "multistep",
    "decay_at": [1 / 3, 2 / 3],
    "decay_factor": 0.1,
    "dialect": "crops",
    "augment": "resized_flip",
    "crop_area": [0.08, 1.0],
}
# `snapshots: early` keeps epochs 0 to this one (Acc-DD starts from epoch 2 or 10).
EARLY_EPOCHS = 10

# PDD's, over MTT and over IDC: five stages, so many images per class in all.
_PDD_MTT: dict[str, dict[int, dict[str, Any]]] = {
    "cifar10": {10: _mtt(50, 2, 5, True, 1e3, 1e-7, 0.01), 50: _mtt(30, 2, 15, True, 1e3, 1e-5, 0.01)},
    "cifar100": {10: _mtt(20, 3, 20, True, 1e3, 1e-5, 0.01), 50: _mtt(20, 2, 20, True, 1e3, 1e-5, 0.01, 512)},
    "tiny_imagenet": {ipc: _mtt(*row) for ipc, row in imagenet.PDD_MTT_TINY.items()},
}


def _cells(rows: dict[str, dict[int, dict[str, Any]]]) -> dict[str, dict[int, dict[str, Any]]]:
    """Rows of MTT's kind with what they start from."""
    training = POOL_TRAINING["mtt"]
    return {
        source: {
            ipc: {**row, "start": {"training": training, "view": row["view"], "masks": None}}
            for ipc, row in by_ipc.items()
        }
        for source, by_ipc in rows.items()
    }


# Methods whose published settings depend on the images per class: name, as tables have it -> source -> ipc -> cell.
_PDD_IDC: dict[str, Any] = {"settings": {}, "whitening": "none", "start": None}
PUBLISHED_CELLS: dict[str, dict[str, dict[int, dict[str, Any]]]] = {
    "mtt": _cells(MTT_BY_IPC),
    "pdd_mtt": _cells(_PDD_MTT),
    "pdd_idc": {source: dict.fromkeys((10, 50), _PDD_IDC) for source in ("cifar10", "cifar100")},
}

# Forgettings of real images from one stage of a progressive distillation to the next (PDD's code, before 67cfe52).
FORGETTING_INTERVAL = 10

# Windows of accuracy by ipc, for views. `best_by_ipc`: where IDC from dense pretrained networks on CIFAR-10 was best,
# read off the figure "pre-trained stage" in the README of Drop2Sparse (its intervals are open above, ours closed).
WINDOWS: dict[str, dict[int, tuple[float, float]]] = {
    "best_by_ipc": {
        1: (0.0, 0.10),
        5: (0.35, 0.40),
        10: (0.50, 0.55),
        15: (0.55, 0.60),
        20: (0.60, 0.65),
        25: (0.60, 0.65),
        30: (0.60, 0.65),
        35: (0.60, 0.65),
        40: (0.65, 0.70),
        45: (0.65, 0.70),
        50: (0.75, 0.80),
    },
}

# What the papers' networks start from, where not from new ones. Drop2Sparse's is published for CIFAR-10 at ipc 1 alone;
# its numbers are for ipc 50, whose settings are not.
PUBLISHED_STARTS: dict[str, dict[str, Any]] = {
    "acc_dd": {"training": POOL_TRAINING["acc_dd"], "view": {"members": 5, "epochs": [2]}, "masks": None},
    "drop2sparse": {
        "training": POOL_TRAINING["drop2sparse"],
        "view": {"members": 5, "metric": "train_augmented", "windows": [[0.7, 0.8]]},
        "masks": {"kind": "uniform", "sparsity": 0.8},
    },
}
# Where it is otherwise on a data source. IDC's pool on ImageNet-100 is Acc-DD's: its first five epochs are the same.
_DROPPED = {key: value for key, value in PUBLISHED_STARTS["drop2sparse"].items() if key != "training"}
STARTS_BY_SOURCE: dict[tuple[str, str], dict[str, Any]] = {
    ("idc", "imagenet100"): {
        "training": POOL_TRAINING["idc_imagenet100"],
        "view": {"members": 10, "epochs": [5]},
        "masks": None,
    },
    **{
        ("acc_dd", source): {
            "training": POOL_TRAINING[f"idc_{source}"],
            "view": {"members": 5, "epochs": [10]},
            "masks": None,
        }
        for source in ("imagenet10", "imagenet100")
    },
    **{
        ("drop2sparse", source): {"training": POOL_TRAINING[f"drop2sparse_{source}"], **_DROPPED}
        for source in ("imagenet10", "imagenet100")
    },
}
# method -> (what of its settings is assumed, where not): cells whose published settings are not known reuse others.
ASSUMED: dict[str, dict[str, Any]] = {
    "drop2sparse": {
        "what": "window of accuracy, members and sparsity, published for CIFAR-10 at ipc 1 alone",
        "known": {"cifar10": (1,)},
    },
}

WHITENING: dict[str, dict[str, Any]] = {"zca": {"eps": 0.1}}  # MTT: kornia's ZCAWhitening(eps=0.1)

NETWORK_DEFAULTS: dict[str, dict[str, Any]] = {
    "convnet": {"depth": 3, "width": 128, "norm": "instance", "activation": "relu", "pooling": "avg"},
    "alexnet": {},
    "vgg": {"depth": 11, "norm": "instance"},
    "resnet": {
        "depth": 18,
        "width": 64,
        "norm": "instance",
        "downsampling": "stride",
        "stem": "auto",
        "head": "mean",
    },
    "densenet": {"depth": 121, "growth": 12, "norm": "batch"},
    "torchvision": {"name": "", "small_stem": False, "dropout": True},  # an empty text must be given
}
# What a network may have beside, as it is where nobody says otherwise (see PROTOCOL_OPTIONS).
NETWORK_OPTIONS: dict[str, dict[str, Any]] = {"resnet": {"initialisation": "default"}}

# What a setting of a name may be: tests/test_config.py compares with the modules that read it.
CHOICES: dict[str, tuple[str | int, ...]] = {
    "decode": ("single", "multi", "bound"),
    "init": ("mix", "first", "random", "noise", "rded", "crops", "herding", "kmeans"),
    "store": ("lossless", "jpeg75"),
    "features": ("pixels", "observer"),
    "match": ("gradient", "feature"),
    "metric": ("mse", "l1", "l1_mean", "cos"),
    "matched": ("conv", "conv_fc", "all"),
    "speedup": (1, 5, 10, 20),
    "perturb": ("filter", "layer", "weight", "unit_filter", "unit_layer"),
    "perturb_directions": (1, 2),
    "perturb_one_dim": ("zero", "copy"),
    "kind": ("uniform", "global", "last", "magnitude"),
    "engine": ("adjoint", "unroll", "truncated"),
    "step_size_as": ("raw", "positive"),
    "soft_labels": ("none", "expert"),
    "optimiser": ("sgd", "adam", "adamw"),
    "dialect": ("idc", "mtt", "crops"),
    "schedule_lr": ("multistep", "half_cosine", "cosine", "linear"),
    "mix": ("cutmix", "mixup"),
    "epochs_by": ("given", "images"),
    "grid": ("none", "set"),
    "loss": ("soft_ce", "kl", "kl_t2", "mse_gt"),
    "norm": ("instance", "batch", "layer", "group", "none"),
    "activation": ("relu", "leakyrelu", "sigmoid"),
    "pooling": ("avg", "max", "none"),
    "downsampling": ("stride", "avg"),
    "stem": ("auto", "3x3", "3x3_pool", "7x7_pool"),
    "head": ("mean", "flatten"),
    "initialisation": ("default", "fan_out"),
    "name": imagenet.TORCHVISION,
    "schedule": ("at_once", "in_sequence", "new_only", "as_many_steps"),
}
AUGMENTATIONS = ("color", "crop", "cutout", "flip", "scale", "rotate")
CROPPINGS = ("shuffle", "resized", "flip", "jitter", "lighting")  # those of the dialect `crops`
# Numbers that cannot be 0.
POSITIVE = (
    "factor", "decode_limit", "inner_steps", "real_batch", "synthetic_batch", "network_batch", "batch", "repeats",
    "whole_steps", "depth", "width", "growth", "mix_beta", "network_mix_beta", "lr", "network_lr", "image_lr",
    "decay_factor", "student_steps", "step_size", "temperature", "mipc", "crops",
)  # fmt: skip

MACHINE: dict[str, Any] = {
    "data_dir": "data",
    "cache_gb": 80,  # of image folders, in their working size, all data sets together
    "resident_mb": 4000,  # images of a data set that take more stay on the host
    "download": False,
    "device": "auto",  # auto | cpu | cuda
    "threads": 1,  # CPU threads of a job
    "class_chunk": 0,  # classes matched at once; 0: 1 where compiled on the CPU, else measured default
    "compile": "auto",  # auto | always | never
    "precision": "fp32",  # fp32 | tf32 | bf16
    "deterministic": True,  # on a GPU: kernels that repeat themselves, so that a resumed job ends with the same bytes
    "tracking": "local",  # local | none
    "checkpoint_seconds": 60,
}
