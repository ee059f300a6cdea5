"""A suite that runs every rule of the workflow in about a minute, over tests/tiny.py: for reruns, faults and reports.

`EVERY` is the configuration, `RULES` the rule of each file it makes. Masks over a pool's networks (m), stages that
condition a pool's networks (p), crops judged by an observer, with stored labels of two kinds (r); no baselines, to be
quick.
"""

import copy
import re

from tiny import CONFIG, Tiny

EVERY = copy.deepcopy(CONFIG)
EVERY["default_suite"] = "every"
EVERY["pools"] |= {
    "early": {"dataset": "digits", "network": "small", "training": {"epochs": 3}},
}
EVERY["masksets"] = {"half": {"dataset": "digits", "network": "small", "kind": "uniform", "sparsity": 0.5}}
EVERY["observers"] = {"judge": {"pool": "early"}}
EVERY["labels"] = {
    "by_view": {"kind": "per_view", "teacher": "judge", "epochs": 1},
    "one_each": {"kind": "static", "teacher": "judge", "top_k": 3},
}
_A = CONFIG["experiments"]["a"]
_SMALL = {key: _A[key] for key in ("dataset", "network", "ipc", "seeds", "protocols", "students")}
EVERY["experiments"] = {
    "m": {**_A, "method": "drop2sparse", "pool": "early", "masks": "half", "view": {"members": 1, "epochs": [1, 2]}},
    "p": {
        **{key: value for key, value in _A.items() if key != "method"},
        "pool": "early",
        "view": {"members": 1, "epochs": [0]},
        "progressive": {"base": "idc", "stages": 2, "condition": {"epochs": 1}},
        "ipc": [2],
    },
    "r": {
        **{key: _SMALL[key] for key in ("dataset", "ipc", "seeds", "protocols", "students")},
        "method": "rded",
        "observer": "judge",
        "settings": {"mipc": 12, "crops": 2},
        "labels": ["by_view", "one_each"],
    },
}
EVERY["suites"] = {"every": {"experiments": ["m", "p", "r"], "images": ["method"]}}

# Which rule makes a file below results/, by its path: the first that matches.
RULES = {
    r"data/": "prepare_data",
    r"pool/": "train_block",
    r"observers/": "observe",
    r"scores/": "score",
    r"masks/": "draw_masks",
    r"views/": "select_view",
    r"condensed/.*/from/block": "condition",
    r"condensed/.*/from/selection": "select_conditioned",
    r"condensed/": "condense",
    r"sets/.*/labels/": "relabel",
    r"sets/": "merge",
    r"evaluations/": "evaluate",
    r"tables/": "tabulate",
    r"figures/": "plot",
}
GPU_RULES = {"train_block", "observe", "score", "condition", "condense", "relabel", "evaluate"}


def rule_of(path):
    """The rule that makes a file (a path below results/)."""
    return next(rule for pattern, rule in RULES.items() if re.match(pattern, path))


class Every(Tiny):
    """A checkout whose suite runs every rule."""

    def __init__(self, folder):
        super().__init__(folder)
        self.config = copy.deepcopy(EVERY)

    @classmethod
    def finished(cls, factory, folder):
        """A copy in `folder` of the one whose workflow has run, once a session."""
        return cls._copied(factory, folder, "every")
