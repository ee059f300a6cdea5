"""docs/from-the-papers.md: its targets and blocks of YAML plan, its settings exist, no command or option is missing."""

import re

import pytest
import yaml
from jsonschema import Draft202012Validator
from tiny import ROOT

from ddlib import presets, presets_students, project
from ddlib.config import merged, read, resolve
from ddlib.paths import made_by
from ddlib.plan import Plan
from ddlib.settings import settings_problems

PAGE = (ROOT / "docs" / "from-the-papers.md").read_text(encoding="utf-8")
CONFIG, SCHEMA = read(ROOT / "config.yaml"), read(project.SCHEMA)
PROSE = re.sub(r"^```.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL)
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)]
FIRST_LINES = re.findall(r"^```yaml\n# (results/\S+)$", PAGE, flags=re.MULTILINE)
TARGETS = sorted(set(re.findall(r"results/\w+/[\w/]+\.(?:csv|json)", PAGE)))

# The files in `scripts` of RDED: subset, images per class, observer, student, crops.
R18, R18_SMALL = "resnet-18_to_resnet-18", "resnet-18-modified_to_resnet-18-modified"
SCRIPTS = [
    *(f"{subset}_10ipc_{networks}_cr5" for subset in ("cifar10", "cifar100") for networks in
      ("conv3_to_conv3", R18_SMALL)),
    "tinyimagenet_10ipc_conv4_to_conv4_cr5",
    *(f"tinyimagenet_{ipc}ipc_{R18_SMALL}_cr5" for ipc in (10, 50)),
    *(f"imagenet-{subset}_10ipc_conv5_to_conv5_cr5" for subset in ("nette", "woof")),
    "imagenet-100_10ipc_conv6_to_conv6_cr5",
    *(f"imagenet-{subset}_10ipc_{R18}_cr5" for subset in ("nette", "woof", "10", "100", "1k")),
    f"imagenet-1k_10ipc_{R18}_cr1",
]  # fmt: skip
# The commands of the READMEs (what stands for a choice in brackets), with CIFAR in the place of the data set.
COMMANDS = {
    "IDC": [
        "python test.py -d cifar10 -n convnet -f 2 --ipc 10 --repeat 3",
        "python test.py -d cifar10 -n convnet -f 1 --ipc 10 --repeat 3",
        "python test.py -d cifar10 -n convnet --ipc 10 -s random",
        "python test.py -d cifar10 -n convnet --ipc 10 -s herding",
        "python condense.py --reproduce -d cifar10 -f 2 --ipc 10",
        "python condense.py --reproduce -d cifar10 -f 1 --ipc 10",
        "python condense.py --reproduce -d cifar100 -f 2 --ipc 10",
        "python pretrain.py -d cifar10 -n convnet --pt_from 5 --seed [seed]",
        "python condense_mp.py --reproduce -d cifar100 --pt_from 5 -f 2 --ipc 10 --nclass_sub 20 --phase [0,1,2,3,4]",
        "python train.py -d cifar10 -n convnet",
        "python test.py -d imagenet --nclass 10 -n resnet_ap -f 3 --ipc 20 --repeat 3",
        "python condense.py --reproduce -d imagenet --nclass 10 -f 3 --ipc 10",
        "python pretrain.py -d imagenet --nclass 100 -n resnet_ap --pt_from 5 --seed [seed]",
        "python condense_mp.py --reproduce -d imagenet --nclass 100 --pt_from 5 -f 3 --ipc 10 --nclass_sub 20 "
        "--phase [0,1,2,3,4]",
        "python train.py -d imagenet --nclass 10 -n resnet_ap",
    ],
    "Acc-DD": [
        "python pretrain.py -d cifar10 --nclass 10 -n convnet --pt_from 2 --seed [seed] --lr [lr] --aug_type [aug]",
        "python condense.py --reproduce -d cifar10 -f 2 --ipc 10 -n convnet --model_path [path]",
        "python condense.py --reproduce -d cifar100 -f 2 --ipc 10 -n convnet --model_path [path]",
        "python test.py -d cifar10 -n convnet -f 2 --ipc 10",
        "python pretrain.py -d imagenet --nclass 10 -n resnet_ap --pt_from 10 --seed [seed]",
        "python condense.py --reproduce -d imagenet --nclass 10 -f 3 --ipc 10 -n resnet_ap --model_path [path]",
        "python condense_mp.py --reproduce -d imagenet --nclass 100 --pt_from 5 -f 3 --ipc 10 --nclass_sub 20 "
        "--phase [0,1,2,3,4] --model_num 5",
    ],
    "Drop2Sparse": [
        "python train.py -d cifar10 -n convnet --epochs 300",
        "python condense.py --reproduce -d cifar10 -f 2 --ipc 1 --sample_accrange 70 80 --pool_number 5 --depth 3 "
        "-n convnet --apply_pruning --pruning_ratio 0.8 --pruning_type global",
        "python test.py -d cifar10 -n convnet -f 2 --ipc 1 --repeat 3 --name [folder name] --niter 2000",
        "python train.py -d imagenet --nclass 10 -n resnet_ap --epochs 300",
        "python condense_mp.py --reproduce -d imagenet --nclass 10 -f 3 --ipc 10 --sample_accrange 70 80",
        "python test.py -d imagenet --nclass 10 -n resnet_ap -f 3 --ipc 10 --repeat 3 --name [folder name] --niter 500",
    ],
    "MTT": [
        "python buffer.py --dataset=CIFAR10 --model=ConvNet --train_epochs=50 --num_experts=100 --zca "
        "--buffer_path={path_to_buffer_storage} --data_path={path_to_dataset}",
        "python buffer_mtt.py --dataset=CIFAR10 --model=ConvNet --train_epochs=50 --num_experts=100 --zca "
        "--data_path=data",
        "python distill.py --dataset=CIFAR10 --ipc=10 --syn_steps=30 --expert_epochs=2 --max_start_epoch=20 --zca "
        "--lr_img=100 --lr_lr=1e-05 --lr_teacher=0.001 --buffer_path={path_to_buffer_storage} "
        "--data_path={path_to_dataset}",
        "python buffer.py --dataset=Tiny --model=ConvNetD4 --train_epochs=50 --num_experts=100",
        "python buffer.py --dataset=ImageNet --subset=imagenette --model=ConvNetD5 --train_epochs=50 --num_experts=100",
        "python distill.py --dataset=Tiny --model=ConvNetD4 --ipc=1",
        "python distill.py --dataset=ImageNet --subset=imagenette --model=ConvNetD5 --ipc=1",
    ],
    "PDD": [
        "python distill_mtt.py --dataset=CIFAR10 --ipc=2 --num_intervals=5 --syn_steps=50 --expert_epochs=2 "
        "--max_start_epoch=5 --zca --lr_img=1000 --lr_lr=1e-07 --lr_teacher=0.01 --batch_syn=20",
        "python distill_idc.py --reproduce -d cifar10 -f 2 --ipc 2 --niter 2000",
        "python distill_increase.py --dataset=Tiny --model=ConvNetD4 --ipc=2 --syn_steps=20 --expert_epochs=2 "
        "--max_start_epoch=20 --lr_img=10000 --lr_lr=1e-04 --lr_teacher=0.01 --num_intervals 5 "
        "--data_path data/tiny-imagenet-200 --batch_syn 64",
    ],
    "RDED": [f"bash ./scripts/{name}.sh" for name in SCRIPTS],
}
# The options of the parsers (argument.py): of IDC's, which three share, those two of them add, and RDED's.
OPTIONS = {
    "Of all three": "-d --dataset --data_dir --imagenet_dir --nclass --dseed --size --phase --nclass_sub -l "
    "--load_memory -n --net_type --norm_type --depth --width --epochs --batch_size --lr --momentum --weight-decay "
    "--wd --seed --pretrained --mixup --mixup_net --beta --mix_p --print-freq -p --verbose -j --workers --save_ckpt "
    "--tag --test --time -i --ipc -f --factor --decode_type --init -a --aug_type --match --metric --bias --fc --f_idx "
    "--niter --inner_loop --early --fix_iter --net_epoch --n_data --pt_from --pt_num --batch_real --batch_syn_max "
    "--lr_img --mom_img --reproduce -s --slct_type --repeat --dsa --dsa_strategy --rrc --same_compute --name",
    "Of Acc-DD": "--val_interval --model_num --pretrain_num --model_path --dir_type --x --y --xnorm --ynorm --xignore "
    "--yignore --same_dir --model_file2 --model_file3 --vmax --vmin",
    "Of Drop2Sparse": "--apply_pruning --pruning_type --pruning_ratio --sample_accrange --pool_number "
    "--distributed_num --pretrained_dir --track_training",
    "Of RDED": "--arch-name --subset --train-dir --nclass --mipc --ipc --num-crop --input-size --factor "
    "--re-batch-size --re-accum-steps --mix-type --stud-name --val-ipc --workers --classes --temperature --val-dir "
    "--min-scale-crops --max-scale-crops --re-epochs --syn-data-path --seed --mixup --cutmix --cos --sgd -lr "
    "--learning-rate --momentum --weight-decay --adamw-lr --adamw-weight-decay --exp-name",
}


def section(level, title):
    """The part of the page under a heading, without its blocks."""
    found = re.search(rf"^{level} {title}\n(.*?)(?=^#{{1,{len(level)}}} |\Z)", PROSE, flags=re.MULTILINE | re.DOTALL)
    assert found, f"no heading {title!r}"
    return found[1]


def rows(text):
    """The rows of the tables of options in a text: (option, here, note)."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*\|$", text, re.MULTILINE)
    ]
    return [tuple(row) for row in cells if row[0].startswith("`-")]


def planned(*over):
    """The plan of config.yaml with blocks merged over it."""
    given = CONFIG
    for block in over:
        given = merged(given, block)
    return Plan(resolve(given, SCHEMA))


def jobs_by_rule(plan):
    """Wildcards, as text, of all jobs behind a plan's experiments."""
    found = {}
    for rule, names in (job for suite in plan.config["experiments"] for job in plan.jobs(suite)):
        found.setdefault(rule, []).append({key: str(value) for key, value in names.items()})
    return found


def refusal(plan, jobs, target):
    """Why a target is no file the plan makes, for images per class and seeds that its experiments ask for ("": it is).

    An evaluation may be of another protocol or other students than the experiment's: Snakemake makes these too.
    """
    if found := re.fullmatch(r"results/tables/(\w+)\.csv", target):
        return "" if found[1] in plan.suites and plan.table_inputs(found[1]) else f"{target}: no such suite"
    rule, names = made_by(target)
    free = ("protocol", "students") if rule == "evaluate" else ()
    if not any(all(job[key] == names[key] for key in names if key not in free) for job in jobs.get(rule, [])):
        return f"{target}: no job makes it"
    return "" if plan.spec(rule, names)["versions"] else f"{target}: no specification"


def schema_of(*path):
    """The part of the schema at a path of keys."""
    found = SCHEMA
    for key in path:
        found = found[key]
    return found


ENTRY = ("additionalProperties", "properties")
# What `section.key` of the tables of options may be: defaults of settings, or properties of the schema.
WRITTEN = {
    "settings": {key: value for known in presets.METHOD_SETTINGS.values() for key, value in known["default"].items()},
    "training": presets.POOL_TRAINING["idc"],
    "protocol": {
        **presets_students.PROTOCOL_OPTIONS,
        **presets_students.PROTOCOLS["rded"],
        **presets_students.PROTOCOLS["idc"],
    },
    "network": presets.NETWORK_DEFAULTS["convnet"],
    "experiment": schema_of("properties", "experiments", *ENTRY),
    "pool": schema_of("properties", "pools", *ENTRY),
    "maskset": schema_of("properties", "masksets", *ENTRY),
    "observer": schema_of("properties", "observers", *ENTRY),
    "label": schema_of("properties", "labels", *ENTRY),
    "dataset": schema_of("properties", "datasets", *ENTRY),
    "machine": schema_of("properties", "machine", "properties"),
    "view": schema_of("$defs", "view", "properties"),
}
BY_DEFAULTS = ("settings", "training", "protocol", "network")


def problems(written):
    """What is wrong with `section.key` or `section.key: value` in backticks."""
    place, _, value = written.partition(": ")
    part, _, key = place.partition(".")
    known = WRITTEN[part]
    if part == "network" and key == "architecture":
        return [] if value in presets.NETWORK_DEFAULTS else [f"{written}: no such architecture"]
    if key not in known:
        return [f"{written}: no such setting"]
    if not value:
        return []
    if part in BY_DEFAULTS:
        return settings_problems(written, {key: yaml.safe_load(value)}, known)
    if (part, key) in (("maskset", "kind"), ("experiment", "method")):
        names = presets.CHOICES["kind"] if key == "kind" else presets.METHOD_SETTINGS
        return [] if value in names else [f"{written}: no such {key}"]
    errors = Draft202012Validator({**known[key], "$defs": SCHEMA["$defs"]}).iter_errors(yaml.safe_load(value))
    return [f"{written}: {error.message}" for error in errors]


@pytest.mark.parametrize("repository", COMMANDS)
def test_every_command_of_the_readmes_is_there(repository):
    text = " ".join(section("##", repository).split())
    missing = [command for command in COMMANDS[repository] if f"`{command}" not in text]
    assert missing == []


@pytest.mark.parametrize("table", OPTIONS)
def test_every_option_of_the_parsers_is_there_once(table):
    found = [option for row in rows(section("###", table)) for option in re.findall(r"`(-[^`]+)`", row[0])]
    assert sorted(found) == sorted(OPTIONS[table].split())


@pytest.mark.parametrize("row", rows(section("##", "Options")), ids=lambda row: row[0].split("`")[1])
def test_what_an_option_becomes_exists(row):
    _, here, note = row
    quoted = re.findall(r"`([^`]+)`", here)
    settings = [name for name in quoted if name.partition(".")[0] in WRITTEN]
    assert [said for name in settings for said in problems(name)] == []
    elsewhere = [name for name in re.findall(r"`([a-z]+\.[^`]+)`", note) if name.partition(".")[0] in WRITTEN]
    assert [said for name in elsewhere for said in problems(name)] == []
    others = [name for name in quoted if name not in settings]
    if not here.startswith(("not covered: ", "not needed: ")):
        assert quoted
        assert set(others) <= planned().experiments.keys()
    commands = [name.removeprefix("make ") for name in others if name.startswith("make ")]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{command}:", makefile, flags=re.MULTILINE) for command in commands)


def test_what_does_not_exist_is_noticed():
    wrong = ["settings.image_rl", "settings.init: fist", "protocol.epoch", "view.member", "maskset.kind: fc"]
    wrong += ["machine.workers", "view.members: 0", "network.architecture: lenet", "experiment.method: kip"]
    assert [len(problems(name)) for name in wrong] == [1] * len(wrong)
    plan = planned()
    targets = ["results/sets/cifar10_idc/ipc7/seed0/card.json", "results/tables/cifar10_icd.csv"]
    assert all(refusal(plan, jobs_by_rule(plan), target) for target in targets)


def test_every_block_names_its_table():
    assert len(FIRST_LINES) == len(BLOCKS) > 5


@pytest.mark.parametrize("block", range(len(BLOCKS)), ids=FIRST_LINES)
def test_every_block_plans_its_table_alone(block):
    before, plan = planned(), planned(BLOCKS[block])
    assert refusal(plan, jobs_by_rule(plan), FIRST_LINES[block]) == ""
    new = {
        kind: set(BLOCKS[block].get(kind, {}))
        for kind in (
            "datasets", "pools", "masksets", "observers", "labels", "experiments", "suites", "protocols",
        )
    }  # fmt: skip
    assert all(not names & set(before.config[kind]) for kind, names in new.items()), "it changes what is there"
    table = re.search(r"(\w+)\.csv", FIRST_LINES[block])[1]
    assert table in new["experiments"] | new["suites"]
    used = [plan.spec(*job) for job in plan.jobs(table)]
    assert all(spec["versions"] for spec in used)


@pytest.fixture(scope="module")
def everything():
    """The plan of config.yaml and all blocks together, and its jobs."""
    plan = planned(*BLOCKS)
    return plan, jobs_by_rule(plan)


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_is_made_by_a_job(everything, target):
    assert refusal(*everything, target) == ""


def test_what_stands_in_the_tables_of_commands_needs_no_block():
    lines = [line for line in re.findall(r"^\| .*\|$", PAGE, flags=re.MULTILINE) if "results/" in line]
    targets = sorted({target for line in lines for target in re.findall(r"results/\w+/[\w/]+\.(?:csv|json)", line)})
    plan = planned()
    jobs = jobs_by_rule(plan)
    assert len(targets) > 20
    assert [said for target in targets if (said := refusal(plan, jobs, target))] == []


def test_the_numbers_the_page_states(everything):
    plan, _ = everything
    outer = {name: entry["settings"]["outer_iterations"] for name, entry in plan.experiments.items()}
    assert outer["cifar10_idc"] == outer["cifar10_drop2sparse"] == 2000
    assert outer["cifar10_acc_dd"] == outer["cifar100_acc_dd"] == outer["cifar10_drop2sparse_last"] == 400
    assert outer["cifar10_acc_dd_500"] == outer["cifar10_idc_parser"] == 500
    protocols = {name: plan.protocol(name, "cifar10") for name in plan.config["protocols"]}
    assert protocols["idc"]["whole_steps"] == 782 * 300
    assert protocols["idc_same_compute"]["epochs"] * 4 == protocols["idc"]["epochs"] == 1000
    members = [plan.spec("train_block", {"pool": "cifar10_diverse", "block": m})["training"] for m in range(4)]
    assert [member["lr"] for member in members] == [0.01, 0.02, 0.01, 0.02]
    assert [member["augment"] for member in members[2:]] == ["color", "color_crop"]
