"""What is made from what in tests/every.py, written out by hand: what should rerun, not what Snakemake says."""

from tiny import card, condensed, scored

TRAIN, TEST = "data/digits/train.json", "data/digits/test.json"
BLOCK, MASKS, JUDGE = "pool/early/block0.json", "masks/half/seed0/chunk0.json", "observers/judge/observer.json"
SCORES = "scores/digits/judge/mipc12_crops2_factor1/seed0/scores.json"
VIEW_M, VIEW_P = (f"views/{name}/ipc1/seed0/selection.json" for name in "mp")
M, FIRST, R = (condensed(name) for name in "mpr")
LATER = FIRST.replace("stage0", "stage1")
CONDITION, SELECTED = (LATER.replace("phase0", f"from/{name}") for name in ("block0", "selection"))
CARD_M, CARD_P, CARD_R = card("m"), card("p", 2), card("r")
BY_VIEW, ONE_EACH = (f"sets/r/ipc1/seed0/labels/{name}.json" for name in ("by_view/quick", "one_each/decoded"))
TAUGHT_M, TAUGHT_P = scored("m"), scored("p", 2)
TAUGHT_VIEWS, TAUGHT_ONE = (scored("r").replace("hard", name) for name in ("by_view", "one_each"))
TABLE, FIGURE = "tables/every.csv", "figures/every.png"

# Manifest -> those it is made from.
MADE_FROM = {
    TRAIN: [],
    MASKS: [],
    BLOCK: [TRAIN],
    JUDGE: [TRAIN, BLOCK],
    SCORES: [TRAIN, JUDGE],
    VIEW_M: [BLOCK],
    VIEW_P: [BLOCK],
    M: [TRAIN, BLOCK, VIEW_M, MASKS],
    FIRST: [TRAIN, BLOCK, VIEW_P],
    CONDITION: [TRAIN, BLOCK, FIRST],
    SELECTED: [CONDITION],
    LATER: [TRAIN, FIRST, CONDITION, SELECTED],
    R: [TRAIN, SCORES],
    CARD_M: [M],
    CARD_P: [FIRST, LATER],
    CARD_R: [R],
    BY_VIEW: [CARD_R, JUDGE],
    ONE_EACH: [CARD_R, JUDGE],
    TAUGHT_M: [CARD_M, TEST],
    TAUGHT_P: [CARD_P, TEST],
    TAUGHT_VIEWS: [CARD_R, BY_VIEW, TEST],
    TAUGHT_ONE: [CARD_R, ONE_EACH, TEST],
    TABLE: [TAUGHT_M, TAUGHT_P, TAUGHT_VIEWS, TAUGHT_ONE, CARD_M, CARD_P, CARD_R, BY_VIEW, ONE_EACH],
    FIGURE: [TABLE],
}
# Jobs whose cost (*.run.json) the table reads; what nobody reads.
COSTS = [BLOCK, SCORES, M, FIRST, CONDITION, LATER, R, BY_VIEW, ONE_EACH]
READ_BY_TABLE = [path.replace(".json", ".run.json") for path in COSTS]
READ_BY_NOBODY = [JUDGE.replace(".json", ".run.json"), "observers/judge/confusion.csv", "tables/every.json"]
READ_BY_NOBODY += [TAUGHT_M, TAUGHT_M.replace(".json", ".run.json"), VIEW_M.replace(".json", ".csv")]

# Component (or entry of the registry) -> the jobs whose results it changes, by what they compute.
POOLED = {BLOCK, CONDITION}
TRAINED = {TAUGHT_M, TAUGHT_P, TAUGHT_VIEWS, TAUGHT_ONE}
LABELLED = {BY_VIEW, ONE_EACH}
MATCHED = {M, FIRST, LATER}
CONDENSED = MATCHED | {R}
USED_BY = {
    "data": {TRAIN, JUDGE},
    "pool": POOLED,
    "observer": {JUDGE},
    "scores": {SCORES, R},
    "view": {VIEW_M, VIEW_P, SELECTED},
    "masks": {MASKS, M},
    "condition": {CONDITION},
    "driver": CONDENSED,
    "sets": {CARD_M, CARD_P, CARD_R},
    "labels": LABELLED,
    "evaluate": TRAINED,
    "table": {TABLE},
    "streams": POOLED | {SCORES} | CONDENSED | LABELLED | TRAINED,
    "augment": POOLED | {SCORES} | CONDENSED | LABELLED | TRAINED,
    "packing": CONDENSED | LABELLED | TRAINED,
    "train": POOLED | MATCHED | TRAINED,
    "gradient": MATCHED,
    "optim": MATCHED,
    "whitening": set(),
    "trajectory": set(),
    "perturb": set(),
    "drop2sparse": {M},
    "idc": {FIRST, LATER},
    "rded": {R},
    "mtt": set(),
    "convnet": {BLOCK, JUDGE, MASKS, CONDITION} | MATCHED | TRAINED,
    "resnet": set(),
    "digits": {TRAIN, BLOCK, JUDGE, SCORES, CONDITION} | CONDENSED | LABELLED | TRAINED,
}


def after(*given):
    """All that is made from these, whether directly or not."""
    found = set()
    while new := {path for path, causes in MADE_FROM.items() if {*given, *found}.intersection(causes)} - found:
        found |= new
    return found - set(given)


def anew(*given):
    """These, and all that is made from them."""
    return set(given) | after(*given)
