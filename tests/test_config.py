"""The configuration: what is understood, and what is refused in which words."""

import copy

import pytest
import yaml
from tiny import CONFIG

from ddlib import presets, presets_students, project
from ddlib.augment import cropping, mix
from ddlib.augment.siamese import DIALECTS, GROUPS
from ddlib.config import ConfigError, merged, numeric, read, resolve
from ddlib.nn import convnet, norm
from ddlib.objectives import distances, trajectory_matching
from ddlib.sets import init, packing
from ddlib.train import loop, losses, schedules
from ddlib.transforms import perturb, sparsify

SCHEMA = read(project.SCHEMA)


def resolved(**changes):
    """The tiny configuration, merged with `changes`."""
    return resolve(merged(CONFIG, changes), SCHEMA)


def test_the_configuration_that_is_shipped_is_right():
    plan = project.load(project.SCHEMA.parents[2])
    assert {"digits", "cifar_mini", "cifar", "cifar10_idc"} <= plan.suites.keys()


def test_defaults_of_the_machine_are_filled_in():
    assert resolved()["machine"] == presets.MACHINE | {"device": "cpu", "compile": "never", "tracking": "none"}
    assert resolved(machine={"threads": "4"})["machine"]["threads"] == 4


def test_numbers_written_as_text_are_numbers():
    assert numeric({"a": ["1e-3", "5", "-2.", ".5", "x1", "1_000", ""]}) == {
        "a": [1e-3, 5, -2.0, 0.5, "x1", "1_000", ""]
    }
    assert yaml.safe_load("1e-3") == "1e-3"  # what makes it necessary
    config = resolved(experiments={"a": {"settings": {"image_lr": "1e-3", "inner_steps": "7"}, "seeds": ["3"]}})
    a = config["experiments"]["a"]
    assert (a["settings"]["image_lr"], a["settings"]["inner_steps"], a["seeds"]) == (1e-3, 7, [3])


def test_merging_goes_key_by_key_and_replaces_lists():
    base = {"a": {"b": [1, 2], "c": 1}, "d": 1}
    assert merged(base, {"a": {"b": [3]}, "e": 2}) == {"a": {"b": [3], "c": 1}, "d": 1, "e": 2}
    assert base == {"a": {"b": [1, 2], "c": 1}, "d": 1}


def a(**given):
    return {"experiments": {"a": given}}


def setting(**given):
    return a(settings=given)


def protocol(**given):
    return {"protocols": {"quick": given}}


POOL = {"pool": "early", "view": {"members": 1}}


def view(ipc=1, **given):
    return a(ipc=[ipc] if isinstance(ipc, int) else ipc, **POOL | {"view": {"members": 1, **given}})


def windows(*given, **more):
    return view(metric="train_augmented", windows=list(given), **more)


def early(**given):
    return {"pools": {"early": given}}


REFUSED = [
    # form
    ({"extra": 1}, "config: unknown key 'extra'"),
    ({"machine": {"thread": 1}}, "machine: unknown key 'thread'; did you mean 'threads'?"),
    ({"machine": {"threads": "two"}}, "machine.threads: 'two' is not of type 'integer'"),
    ({"machine": {"tracking": False}}, "False is not one of local, none (YAML reads off, no and false alike"),
    (a(seed=[1]), "experiments.a: unknown key 'seed'; did you mean 'seeds'?"),
    (a(ipc=[]), "experiments.a.ipc: [] should be non-empty"),
    (a(ipc=1), "experiments.a.ipc: 1 is not of type 'array'"),
    (a(ipc=[1, 1]), "experiments.a.ipc: [1, 1] has non-unique elements"),
    (a(seeds=[-1]), "experiments.a.seeds.0: -1 is less than the minimum of 0"),
    # names
    ({"pools": {"Early": {"dataset": "digits", "network": "small"}}}, "pools: 'Early' is no name: names are a-z"),
    (
        {"students": {False: ["small"]}},
        "students: False is no name: names are a-z, 0-9 and _, and begin with a letter ",
    ),
    ({"suites": {"x__y": {"experiments": ["a"]}}}, "suites.x__y: names with '__' are kept"),
    ({"suites": {"a": {"experiments": ["a"]}}}, "suites.a: an experiment of this name is a suite already"),
    ({"students": {"small": ["wide"]}}, "students.small: a network of this name is a group already"),
    # names that refer to names
    ({"default_suite": "tny"}, "default_suite: no suite is called 'tny'; did you mean 'tiny'?"),
    ({"suites": {"tiny": {"experiments": ["aa"]}}}, "suites.tiny.experiments: no experiment is called 'aa'"),
    ({"datasets": {"digits": {"source": "digit"}}}, "no data source is called 'digit'; did you mean 'digits'?"),
    ({"datasets": {"digits": {"classes": 9}}}, "datasets.digits.classes: digits has 10 classes, not 9"),
    ({"datasets": {"digits": {"order": "reordered"}}}, "digits comes in the order official only"),
    (
        {"networks": {"small": {"architecture": "convnt"}}},
        "no architecture is called 'convnt'; did you mean 'convnet'?",
    ),
    ({"networks": {"small": {"widht": 4}}}, "networks.small: unknown setting 'widht'; did you mean 'width'?"),
    ({"networks": {"small": {"norm": "instnce"}}}, "networks.small.norm: 'instnce' is not one of instance, batch"),
    (a(method="icd"), "experiments.a.method: no method is called 'icd'; did you mean 'idc'?"),
    (a(dataset="digit"), "experiments.a.dataset: no data set is called 'digit'; did you mean 'digits'?"),
    (a(protocols=["quik"]), "no protocol is called 'quik'; did you mean 'quick'?"),
    (a(labels=["soft"]), "experiments.a.labels: no kind of labels is called 'soft'"),
    (protocol(recipe="icd"), "no protocol recipe is called 'icd'; did you mean 'idc'?"),
    # settings
    (setting(image_rl=1), "experiments.a.settings: unknown setting 'image_rl'; did you mean 'image_lr'?"),
    (setting(inner_steps=1.5), "experiments.a.settings.inner_steps: 1.5 is a float, it must be a int such as 100"),
    (setting(factor=True), "settings.factor: True is a bool, it must be a int such as 2 (YAML reads"),
    (setting(init=False), "settings.init: False is a bool, it must be a str such as 'mix' (YAML reads"),
    (
        setting(init="mixed"),
        "settings.init: 'mixed' is not one of mix, first, random, noise, rded, crops, herding, kmeans; did you mean",
    ),
    (setting(real_batch=0), "settings.real_batch: it must be more than 0"),
    (setting(image_lr=-1), "settings.image_lr: -1 is negative"),
    (setting(image_lr=float("inf")), "settings.image_lr: inf is no number to work with"),
    (setting(network_mix_probability=2), "network_mix_probability: 2 is no probability"),
    (setting(match_augment="colour_crop"), "no augmentation is called 'colour'; did you mean 'color'?"),
    (setting(match_augment="crop_crop"), "'crop_crop' names an augmentation twice"),
    (protocol(epochs=0), "protocols.quick: students would train for 0 epochs and 0 steps: give one of the two"),
    (protocol(epochs={"cifar": 3}), "protocols.quick.epochs: no data set is called 'cifar'"),
    (protocol(epochs={"digits": "many"}), "protocols.quick.epochs: 'many' is a str"),
    (protocol(decay_at=[3]), "protocols.quick.decay_at: [3] must be shares of the training"),
    # numbers that only make sense together
    (a(classes_per_phase=3), "experiments.a.classes_per_phase: 3 does not divide 10 classes"),
    (a(evaluate_at=[1]), "experiments.a.evaluate_at: [1] is not before the last outer iteration, 1"),
    (a(pool="early"), "experiments.a: 'pool' and 'view' go together; 'view' is missing"),
    (a(**POOL | {"network": "wide"}), "experiments.a.pool: its network is small, the experiment's is wide"),
    (a(**POOL | {"view": {"members": 1, "epochs": [2]}}), "view.epochs: [2] are not among the pool's snapshots [0, 1]"),
    (
        a(**POOL | {"view": {"members": 1, "low": 0.5}}),
        "a metric window needs metric, low and high (or metric and windows); it has only low",
    ),
    (
        view(windows=[[0.1, 0.2]]),
        "a metric window needs metric, low and high (or metric and windows); it has only windows",
    ),
    (windows([0.1, 0.2], low=0.5, high=0.6), "view: windows and low with high are two ways to say one thing"),
    (windows(), "view.windows: give at least one [low, high]"),
    (windows([0.8, 0.7]), "view.windows: [0.8, 0.7] is no [low, high] with 0 <= low < high <= 1"),
    (windows([0.1, 0.2], [70, 80]), "view.windows: [70, 80] is no [low, high] with 0 <= low < high <= 1"),
    (windows(0.1), "view.windows: 0.1 is no [low, high] with 0 <= low < high <= 1"),
    (windows([0.1, 0.5], [0.4, 0.8]), "view.windows: [0.4, 0.8] does not begin after [0.1, 0.5]: order them"),
    (windows([0.7, 0.8], [0.1, 0.2]), "view.windows: [0.1, 0.2] does not begin after [0.7, 0.8]: order them"),
    (
        view(metric="train_augmented", windows="best_by_ips"),
        "view.windows: no windows are called 'best_by_ips'; did you mean 'best_by_ipc'?",
    ),
    (
        view(metric="train_augmented", windows="best_by_ipc", ipc=[1, 2, 10, 100]),
        "best_by_ipc has no window for ipc 2, 100, only for 1, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50; give numbers",
    ),
    (view(horizon=2), "view.horizon: idc does not look at a later snapshot, 2 epochs ahead: leave it out"),
    (view(epochs=[1], start_below=1), "view: start_below 1 and epochs are two ways to say one thing: give one of them"),
    (view(start_below=3), "view.start_below: [2] are not among the pool's snapshots [0, 1] (its members train for 1 "),
    (early(snapshots="first"), "pools.early.snapshots: snapshots are all, early, last, a range such as 0-16 or a list"),
    (early(snapshots="1-0"), "pools.early.snapshots: snapshots are all, early, last, a range such as 0-16 or a list"),
    (early(snapshots="0-16"), "pools.early.snapshots: epochs 2-16 are beyond the pool's 1 epochs"),
    (early(training={"score_snapshots": 0}), "pools.early.training.score_snapshots: 0 is a int, it must be a bool"),
    (early(diversity={"score_snapshots": [True, False]}), "diversity: score_snapshots is the same for all members"),
    (
        a(**POOL | {"view": {"members": 1, "metric": "train_clean", "low": 0.5, "high": 0.5}}),
        "view: low 0.5 is not below high 0.5",
    ),
    (
        a(**POOL | {"view": {"members": 1, "metric": "heldout", "low": 0.1, "high": 0.5}}),
        "experiments.a.view.metric: data set digits has nothing held out; set its heldout",
    ),
    ({"pools": {"early": {"snapshots": [0, 5]}}}, "pools.early.snapshots: epochs [5] are beyond the pool's 1 epochs"),
    (
        early(training={"epochs": 300}, snapshots="early") | view(epochs=[2, 11]),
        "view.epochs: [11] are not among the pool's snapshots [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]",
    ),
    (
        early(training={"epochs": 300}) | view(epochs=[301]),
        "view.epochs: [301] are not among the pool's snapshots 0-300",
    ),
    ({"pools": {"early": {"training": {"epoch": 1}}}}, "unknown setting 'epoch'; did you mean 'epochs'?"),
    (early(training={"epochs": "x"}), "pools.early.training.epochs: 'x' is a str"),
    (early(training={"recipe": "accdd"}), "no training recipe is called 'accdd'; did you mean 'acc_dd'?"),
    (
        early(training={"optimiser": "adan"}),
        "pools.early.training.optimiser: 'adan' is not one of sgd, adam, adamw; did ",
    ),
    (early(diversity={"lrr": [0.1]}), "pools.early.diversity: unknown setting 'lrr'; did you mean 'lr'?"),
    (early(diversity={"lr": [0.1, "x", 0.2]}), "pools.early.diversity.lr: 'x' is a str, it must be a float such as"),
    (early(diversity={"lr": [0.1, 0]}), "pools.early.diversity.lr: it must be more than 0"),
    (early(diversity={"augment": ["flip", "flop"]}), "diversity.augment: no augmentation is called 'flop'; did you"),
    (early(diversity={"epochs": [1, 2]}), "pools.early.diversity: epochs is the same for all members: set it in"),
    (early(diversity={"lr": []}), "pools.early.diversity.lr: [] should be non-empty"),
]


@pytest.mark.parametrize(("changes", "said"), REFUSED, ids=[said[:60] for _, said in REFUSED])
def test_refused(changes, said):
    with pytest.raises(ConfigError) as caught:
        resolved(**changes)
    assert said in str(caught.value)
    assert "the configuration has 1 problem:\n" in str(caught.value)


def test_a_missing_network_is_named():
    config = copy.deepcopy(CONFIG)
    del config["experiments"]["a"]["network"]
    with pytest.raises(ConfigError, match=r"experiments\.a: key 'network' is missing: idc needs a network"):
        resolve(config, SCHEMA)


def test_every_missing_key_is_named_once():
    with pytest.raises(ConfigError, match="the configuration has 5 problems") as caught:
        resolved(experiments={"c": {"method": "idc"}})
    assert str(caught.value).count("experiments.c: key 'dataset' is missing") == 1


def test_a_method_without_a_pool_refuses_one():
    config = copy.deepcopy(CONFIG)
    config["experiments"]["a"] |= {"method": "random", "settings": {}, **POOL}
    with pytest.raises(ConfigError, match=r"experiments\.a\.pool: random does not start from a pool"):
        resolve(config, SCHEMA)


def test_what_is_no_map_is_refused(tmp_path):
    path = tmp_path / "config.yaml"
    for text, said in [("- a", "must be a map of keys, not list"), ("a: [", "is not valid YAML")]:
        path.write_text(text)
        with pytest.raises(ConfigError, match=said):
            project.load(tmp_path)


def test_the_choices_are_those_of_the_modules_that_read_them():
    choices = presets.CHOICES
    assert set(choices["init"]) == set(init.KINDS)
    assert set(choices["decode"]) == set(packing.KINDS)
    assert set(choices["metric"]) == set(distances.METRICS)
    for name, known in trajectory_matching.CHOICES.items():
        assert set(choices[name]) == set(known)
    assert set(choices["optimiser"]) == set(loop.AT_REST)
    assert set(choices["perturb"]) == set(perturb.NORMS)
    assert set(choices["kind"]) == set(sparsify.KINDS)
    assert set(choices["norm"]) == set(norm.KINDS)
    assert set(choices["activation"]) == set(convnet.ACTIVATIONS)
    assert set(choices["pooling"]) == set(convnet.POOLINGS)
    assert (set(choices["dialect"]), set(presets.AUGMENTATIONS)) == (set(DIALECTS), set(GROUPS))
    assert set(presets.CROPPINGS) == set(cropping.GROUPS)
    assert set(choices["loss"]) == set(losses.LOSSES)
    assert set(choices["mix"]) == set(mix.MIXES)
    assert set(choices["schedule_lr"]) == {"multistep", *schedules.CURVES}
    tables = [
        presets_students.PROTOCOL_OPTIONS,
        *presets.POOL_TRAINING.values(),
        *presets_students.PROTOCOLS.values(),
        *presets.NETWORK_DEFAULTS.values(),
        *presets.NETWORK_OPTIONS.values(),
    ]
    tables += [settings for method in presets.METHOD_SETTINGS.values() for settings in method.values()]
    known = {key for table in tables for key in table} | {"kind"}  # of a mask set
    assert set(choices) | set(presets.POSITIVE) <= known
