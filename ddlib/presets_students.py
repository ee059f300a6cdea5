"""Published settings of students as literals: protocols of evaluation, how networks are conditioned, kinds of labels.

As in ddlib/presets.py, a number is the paper's or its official code's; what is ours is marked `ours`.
"""

from __future__ import annotations

from typing import Any

from . import presets_imagenet as imagenet

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

# How networks are trained on the earlier stages of a progressive distillation, on each union in turn: Chen et al.,
# "Data Distillation Can Be Like Vodka", 2023, arXiv 2310.06982; VITA-Group/ProgressiveDD @ 844fa9a (distill_idc.py: 200
# epochs of IDC's students; distill_mtt.py: its evaluation, at the step size learned with the stage).
_CONDITION: dict[str, Any] = {**{key: value for key, value in _STUDENT.items() if key != "repeats"}, "steps": 0}
CONDITION: dict[str, dict[str, Any]] = {
    "default": {**_CONDITION, "epochs": 200},
    "mtt": {
        **_CONDITION,
        "epochs": 1001,
        "batch": 256,
        "learned_lr": True,
        "augment": "color_crop_cutout_flip_scale_rotate",
        "dialect": "mtt",
        "mix_probability": 0.0,
        "decay_at": [0.5],
        "decay_delay": 2,  # after epoch 501 of 1001
        "decay_factor": 0.1,
    },
}

# MTT's students: Cazenavette et al., CVPR 2022, arXiv 2203.11932; GeorgeCazenavette/mtt-distillation @ 50dccea
# (distill.py, utils.py: E + 1 epochs, E = 1000; the rate falls after epoch index E//2 + 1, with a new optimiser).
_MTT_STUDENT: dict[str, Any] = {
    **_STUDENT,
    "batch": 256,
    "augment": "color_crop_cutout_flip_scale_rotate",
    "dialect": "mtt",
    "mix_probability": 0.0,
    "decay_at": [0.5],
    "decay_factor": 0.1,
    "decay_delay": 2,
    "learned_lr": True,
    "restart_at_decay": True,
    "repeats": 5,
}

# What a recipe of PROTOCOLS may have beside its own keys, as it is where nobody says otherwise. A recipe without them
# stays as it is, and so do the specifications of jobs that use it.
PROTOCOL_OPTIONS: dict[str, Any] = {
    "decay_delay": 0,  # epochs by which the rate falls later than decay_at says
    "restart_at_decay": False,  # the velocity is zeroed when the rate falls
    "learned_lr": False,  # train at the set's learned step size, of each stage, where it has one; else at lr
    "schedule": "at_once",  # at_once | in_sequence | new_only | as_many_steps: ddlib/train/lessons.py
    "carry_optimiser": True,  # the velocity goes from one stage to the next
    "halve_from_stage": 0,  # from this stage on (1: the first; 0: never) half the learning rate
    "shared_start": False,  # all repeats start from the same weights
    "optimiser": "sgd",  # sgd | adam | adamw (decay apart, of weights of more than one axis; both have no momentum)
    "schedule_lr": "multistep",  # multistep (decay_at) | half_cosine (to a half) | cosine (to 0) | linear (to 0)
    "mix": "cutmix",  # cutmix | mixup
    "grid": "none",  # set: patches are shuffled, and crops sized, by how many a side a set's images are stitched of
    "crop_area": [],  # least and largest share of the image that a crop takes; []: 1 / grid to 1
    "loss": "soft_ce",  # soft_ce | kl | kl_t2 | mse_gt: on a teacher's logits; on classes it is cross entropy
    "temperature": 1.0,  # of teacher and student in that loss
    "truth_weight": 0.1,  # of the classes' cross entropy in mse_gt
    "bn_twice": False,  # batch norm's statistics move twice a step, as in RDED's code
    "epochs_by": "given",  # given | images: IDC's on ImageNet subsets, by ipc x factor^2 and the number of classes
}

# Of these, what says nothing of students that train on all real images.
OF_SETS = ("learned_lr", "schedule", "carry_optimiser", "halve_from_stage", "grid")

# RDED: Sun et al., "On the Diversity and Realism of Distilled Dataset", 2024, arXiv 2312.03526; LINs-lab/RDED @ 3f6453d
# (argument.py). What is 0 is by student, classes and ipc, or by the way to mix: RDED_TABLES, when it is planned.
_RDED_STUDENT: dict[str, Any] = {
    "batch": 0,
    "lr": 0.0,
    "momentum": 0.9,
    "weight_decay": 0.01,
    "optimiser": "adamw",
    "augment": "shuffle_resized_flip",
    "dialect": "crops",
    "grid": "set",
    "mix": "cutmix",
    "mix_probability": 1.0,
    "mix_beta": 0.0,
    "loss": "kl",
    "temperature": 0.0,
    "schedule_lr": "half_cosine",
    "decay_at": [],
    "decay_factor": 0.2,
    "bn_twice": False,
    "repeats": 3,
}
RDED_TABLES: dict[str, Any] = {
    # classes -> ipc -> batch. Between (ours; officially 0): the row of the largest number of classes not above it, and
    # in it that of the largest ipc; never more than there are images.
    "batch": {10: {1: 10, 10: 50, 50: 100}, 100: {1: 20, 10: 100, 50: 200}},
    "batch_of": {"tiny_imagenet": 100},  # whatever the ipc
    # architecture, with its depth where it has one, or torchvision's name -> learning rate. Others: officially 0.
    "lr": {
        **dict.fromkeys(("convnet3", "convnet4", "convnet5", "convnet6", "resnet18", "resnet50", "resnet101"), 1e-3),
        "efficientnet_b0": 2e-3,
        "mobilenet_v2": 2.5e-3,
        "vgg11": 5e-4,
        **dict.fromkeys(("alexnet", "vit_b_16", "swin_v2_t"), 1e-4),
    },
    # data source, and architecture of both observer and student -> what is otherwise
    "exceptions": {("cifar100", "convnet3"): {"batch": 25, "lr": 2e-3}},
    # the way to mix -> what goes with it
    "mix": {"cutmix": {"mix_beta": 1.0, "temperature": 20.0}, "mixup": {"mix_beta": 0.8, "temperature": 4.0}},
}
# Where its numbers are published: (data source, architecture of the observer) -> pixels.
RDED_SIZES: dict[tuple[str, str], int] = {
    **{(source, name): 32 for source in ("cifar10", "cifar100") for name in ("convnet3", "resnet18")},
    **{("tiny_imagenet", name): 64 for name in ("convnet4", "resnet18")},
    **{("imagenette", "convnet5"): 128, ("imagewoof", "convnet5"): 128, ("imagenet100", "convnet6"): 128},
    **{(f"image{name}", "resnet18"): 224 for name in ("nette", "woof", "net10", "net100", "net1k")},
}

# How long they are trained and scored. Accuracy is that of the last epoch.
PROTOCOLS: dict[str, dict[str, Any]] = {
    # 1000 epochs, 3 repeats; `whole`: 300 epochs of 782 steps on CIFAR, the official train.py.
    "idc": {**_STUDENT, "epochs": 1000, "steps": 0, "whole_steps": 234_600},
    # ours: the same number of steps for every method and ipc.
    "common": {**_STUDENT, "epochs": 0, "steps": 10_000, "whole_steps": 10_000},
    # `whole` in these: ours, as many epochs as in `idc`.
    "mtt": {**_MTT_STUDENT, "epochs": 1001, "steps": 0, "whole_steps": 58_800},
    # PDD: arXiv 2310.06982; VITA-Group/ProgressiveDD @ 844fa9a, evaluate_mtt.py (E = 500 a stage, the optimiser goes on
    # when the rate falls) and evaluate_idc.py (500 epochs a stage).
    "pdd_mtt": {
        **_MTT_STUDENT,
        "restart_at_decay": False,
        "schedule": "in_sequence",
        "carry_optimiser": True,
        "epochs": 501,
        "steps": 0,
        "whole_steps": 58_800,
    },
    "pdd_idc": {
        **_STUDENT,
        "schedule": "in_sequence",
        "carry_optimiser": True,
        "halve_from_stage": 6,
        "epochs": 500,
        "steps": 0,
        "whole_steps": 234_600,
    },
    # `whole`: ours, as many images as in `idc`. Accuracy is that of the last epoch (**Differs**: the official code's is
    # the best of six epochs on test data).
    "rded": {**_RDED_STUDENT, "epochs": 300, "steps": 0, "whole_steps": 150_000},
    # IDC's test.py on ImageNet subsets; `whole`: 300 epochs, its train.py.
    **{
        name: {
            **_STUDENT,
            **imagenet.BY_CLASSES[classes],
            **imagenet.CROPPED,
            "epochs_by": "images",
            "epochs": 0,
            "steps": 0,
            "whole_steps": imagenet.WHOLE_STEPS[classes],
        }
        for name, classes in (("idc_imagenet10", 10), ("idc_imagenet100", 100))
    },
}
# The protocol of a paper's numbers on a data source, where it is not `idc` or the one called as the method.
PAPERS_PROTOCOL = {"imagenet10": "idc_imagenet10", "imagenet100": "idc_imagenet100"}
# Which labels students train on: `hard`, the class of each image; `own`, what the set itself holds: its soft labels
# where it has them, else its classes.
LABELS = ("hard", "own")
# Named labels: what a teacher says of a set, and how it is kept (ddlib/observers.py). `top_k` 0: all logits.
LABEL_KINDS: dict[str, dict[str, Any]] = {
    "static": {"precision": "fp32", "top_k": 0},
    "per_view": {"precision": "fp16", "top_k": 0, "epochs": 0},  # epochs 0: as many as students train
    "online": {},
}
# Settings that may be given per data set, such as `steps: {cifar10: 10000, cifar100: 20000}`.
PER_DATASET = ("epochs", "steps", "whole_steps")
