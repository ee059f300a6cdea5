"""Commands work as typed (workflow/plugins): the rewriting alone. test_commands_run.py has real Snakemake."""

import pytest
import snakemake.cli
from snakemake_logger_plugin_ddlib import TAKES_PAIRS, is_users_command, parser_options, split_targets

TARGET = "results/tables/cifar.csv"
OTHER = "results/tables/digits.csv"


@pytest.fixture(scope="module")
def options():
    return parser_options(snakemake.cli.get_argument_parser())


MENDED = [
    ("--cores 8 --resources gpu=4 T", "--cores 8 --resources gpu=4 -- T"),
    ("-n --cores 8 --resources gpu=4 T", "-n --cores 8 --resources gpu=4 -- T"),
    ("--cores 8 -n --resources gpu=4 T", "--cores 8 -n --resources gpu=4 -- T"),
    ("--cores 8 --resources gpu=4 T -n", "--cores 8 --resources gpu=4 -n -- T"),
    ("--resources gpu=4 mem_mb=100 T --cores 8", "--resources gpu=4 mem_mb=100 --cores 8 -- T"),
    ("--resources gpu=4 T mem_mb=100", "--resources gpu=4 mem_mb=100 -- T"),
    ("--resources gpu=4 T O", "--resources gpu=4 -- T O"),
    ("--res gpu=4 T", "--res gpu=4 -- T"),
    ("--resource gpu=4 T", "--resource gpu=4 -- T"),
    ("--resou gpu=4 T", "--resou gpu=4 -- T"),
    ("T --resources gpu=4 O", "--resources gpu=4 -- T O"),
    ("T --resources gpu=4 -n O", "--resources gpu=4 -n -- T O"),
    ("--resources gpu=4 T -n O", "--resources gpu=4 -n -- T O"),
    ("--resources gpu=4 T -- O", "--resources gpu=4 -- T O"),
    ("T --resources gpu=4 -- O", "--resources gpu=4 -- T O"),
    ("T --resources=gpu=4 O", "--resources=gpu=4 -- T O"),
    ("-c8 --resources gpu=4 all", "-c8 --resources gpu=4 -- all"),
    ("-c 8 --resources gpu=4 all", "-c 8 --resources gpu=4 -- all"),
    ("-nj4 --resources gpu=4 T", "-nj4 --resources gpu=4 -- T"),
    ("--config seed=1 T", "--config seed=1 -- T"),
    ("-C seed=1 other=2 T", "-C seed=1 other=2 -- T"),
    ("-nC seed=1 T", "-nC seed=1 -- T"),
    ("--set-resources table:gpu=2 T", "--set-resources table:gpu=2 -- T"),
    ("--set-threads table=2 T", "--set-threads table=2 -- T"),
    ("--default-resources mem_mb=min(1,2) T", "--default-resources mem_mb=min(1,2) -- T"),
    ("--default-resources T", "--default-resources -- T"),
    ("--default-res mem_mb=5 T", "--default-res mem_mb=5 -- T"),
    ("--set-resource-scopes gpu=global T", "--set-resource-scopes gpu=global -- T"),
    ("--set-scatter split=2 T", "--set-scatter split=2 -- T"),
    ("--consider-ancient table=0 T", "--consider-ancient table=0 -- T"),
    ("--groups table=g T --group-components g=5 O", "--groups table=g --group-components g=5 -- T O"),
    ("--config seed=1 --resources gpu=4 T -k --rerun-triggers mtime", None),
    ("--until table --resources gpu=4 T", "--until table --resources gpu=4 -- T"),
    ("--resources gpu=4 results/ipc=1.csv", "--resources gpu=4 -- results/ipc=1.csv"),
    ("--resources gpu=4 ../x T", "--resources gpu=4 -- ../x T"),
]

LEFT_ALONE = [
    "",
    "T",
    "--cores 8 T",
    "--cores 8 --resources gpu=4",
    "--cores 8 --resources=gpu=4 T",
    "--resources gpu=4 -n T",
    "--resources gpu=4 -- T",
    "--resources gpu=4 -- T O",
    "T --resources gpu=4",
    "T O --resources gpu=4 -n",
    "-Cseed=1 T",
    "--until T O --cores 8",
    "--configfile mine.yaml T",
    "T -n O",  # plain Snakemake refuses it, and not for our reason
    # mistakes, which Snakemake is to answer
    "--resources gpu T",
    "--resources T",
    "--resources gpu:4 T",
    "--resources gpu=4 100 T",
    "--resources gpu=4 , T",
    "--config seed T",
    "--config T",
    "--set-resources table:gpu T",
    "--resources gpu=4 T --no-such-option",
    "--resources gpu=4 T --set-res table:gpu=1",  # which one?
]


@pytest.mark.parametrize(("typed", "wanted"), MENDED)
def test_targets_go_behind_two_dashes(options, typed, wanted):
    wanted = wanted or "--config seed=1 --resources gpu=4 -k --rerun-triggers mtime -- T"
    assert split_targets(_words(typed), options) == _words(wanted)


@pytest.mark.parametrize("typed", LEFT_ALONE)
def test_all_else_is_left_alone(options, typed):
    assert split_targets(_words(typed), options) == _words(typed)


@pytest.mark.parametrize(("typed", "wanted"), MENDED)
def test_mending_twice_is_mending_once(options, typed, wanted):
    once = split_targets(_words(typed), options)
    assert split_targets(once, options) == once


def test_words_with_spaces_and_negative_numbers_stay_values(options):
    typed = ["--config", "text={'a': -1}", "--retries", "-1", "--config", "a=1", TARGET]
    assert split_targets(typed, options) == [*typed[:-1], "--", TARGET]


def test_all_options_of_snakemake_that_take_pairs_are_known():
    """A new one in Snakemake would bring the disease back: found by its metavar, or by what it says of itself."""
    greedy = [action for action in snakemake.cli.get_argument_parser()._actions if action.nargs in ("+", "*")]
    shown = {action.dest for action in greedy if "=" in str(action.metavar)}
    assert shown | {"groups", "group_components"} == TAKES_PAIRS
    assert {action.dest for action in greedy} >= TAKES_PAIRS


@pytest.mark.parametrize(
    ("argv", "ours"),
    [
        (["/x/.venv/bin/snakemake", "-n"], True),
        (["/x/site-packages/snakemake/__main__.py", "-n"], True),
        (["snakemake"], True),
        (["/x/site-packages/pytest/__main__.py", "snakemake"], False),
        (["/x/bin/pytest"], False),
        (["-c"], False),
        (["/x/site-packages/snakemake/__main__.py", "--target-jobs", "table:suite=cifar"], False),
        (["/x/bin/snakemake", "--mode", "subprocess"], False),
        (["/x/bin/snakemake", "--mode=remote"], False),
    ],
)
def test_only_a_users_snakemake_is_touched(argv, ours):
    assert is_users_command(argv) is ours


def _words(text):
    return [{"T": TARGET, "O": OTHER}.get(word, word) for word in text.split()]
