"""Makes `snakemake --cores 8 --resources gpu=4 results/tables/cifar.csv` work as typed.

Snakemake's `--resources` takes every word up to the next option, the target too, and then dies on it; so do `--config`,
`--set-resources` and all other options that take NAME=VALUE words. Snakemake imports installed packages of the name
`snakemake_logger_plugin_*` while it builds its parser, before it reads its command line: this one then moves the
targets behind `--`. That is all it does. As a log handler (`--logger ddlib`) it is silent beside Snakemake's own; a
command that works as it is, or is wrong anyway, jobs which Snakemake spawns and every other process are left alone.

**Differs** from a logger plugin's purpose; there is no other hook in Snakemake 9 that is early enough.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from logging import LogRecord
from pathlib import PurePath
from typing import Any, NamedTuple

from snakemake_interface_logger_plugins.base import LogHandlerBase

# Options of Snakemake 9 that take any number of NAME=VALUE words (tests/test_command_line.py compares with the parser).
TAKES_PAIRS = {"resources", "default_resources", "set_resources", "set_resource_scopes", "set_threads", "set_scatter"}
TAKES_PAIRS |= {"config", "consider_ancient", "groups", "group_components"}
MAY_BE_EMPTY = "default_resources"  # given alone it switches Snakemake's own defaults on


class Option(NamedTuple):
    """What argparse knows of an option: `nargs` is a number, `?`, `*`, `+`, or None for exactly one value."""

    dest: str
    nargs: int | str | None


class UnclearError(Exception):
    """A word that Snakemake's own parser must answer for."""


def parser_options(parser: Any) -> dict[str, Option]:
    """Every option string of an argparse parser."""
    return {name: Option(action.dest, action.nargs) for action in parser._actions for name in action.option_strings}


def split_targets(words: Sequence[str], options: Mapping[str, Option]) -> list[str]:
    """The command line with all targets behind `--`, if it fails for want of that; else unchanged.

    It fails where an option of `TAKES_PAIRS` swallows a target, or stands between two targets.
    """
    try:
        kept, targets, swallowed, runs = _read(words, options)
    except UnclearError:
        return list(words)
    return [*kept, "--", *targets] if swallowed or runs > 1 else list(words)


def _read(words: Sequence[str], options: Mapping[str, Option]) -> tuple[list[str], list[str], bool, int]:
    """(options with values, targets, whether an option swallows a target, groups of targets that stand apart)."""
    kept: list[str] = []
    targets: list[str] = []
    swallowed, pairs, runs, at = False, False, 0, 0
    while at < len(words) and words[at] != "--":
        found = _option(words[at], options)
        end = at + 1
        while end < len(words) and words[end] != "--" and _option(words[end], options) is None:
            end += 1  # up to the next option
        if found is None:
            targets += words[at:end]
            runs += 1
        else:
            option, attached = found
            following = words[at + 1 : end]
            pairs = pairs or option.dest in TAKES_PAIRS
            if option.dest in TAKES_PAIRS and not attached:
                values, mine = _part(option, following)
                swallowed = swallowed or bool(mine)
            else:
                values, mine = _take(option, attached, following)
                runs += bool(mine)
            kept += [words[at], *values]
            targets += mine
        at = end
    explicit = words[at + 1 :]
    runs += bool(explicit)
    return kept, [*targets, *explicit], swallowed, runs if pairs else 0


def _option(word: str, options: Mapping[str, Option]) -> tuple[Option, bool] | None:
    """The option a word names (the last one of `-nj4`) and whether its value is attached; None: a plain word."""
    if not word.startswith("-") or word == "-":
        return None
    name, equals, _ = word.partition("=")
    if name in options:
        return options[name], bool(equals)
    if word.startswith("--"):
        meant = {option for known, option in options.items() if known.startswith(name)}
        if len(meant) == 1:
            return meant.pop(), bool(equals)
    else:
        for at, letter in enumerate(word[1:], start=2):
            option = options.get(f"-{letter}")
            if option is None:
                break
            if option.nargs != 0 or at == len(word):
                return option, at < len(word)
    if re.fullmatch(r"-\d+|-\d*\.\d+", word) or " " in word:  # argparse: a negative number, a text
        return None
    raise UnclearError(word)


def _take(option: Option, attached: bool, following: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words that argparse gives to an ordinary option, and the rest: targets."""
    if attached:
        count = 0
    elif isinstance(option.nargs, int):
        count = option.nargs
    else:
        count = len(following) if option.nargs in ("*", "+") else 1
    return list(following[:count]), list(following[count:])


def _part(option: Option, following: Sequence[str]) -> tuple[list[str], list[str]]:
    """NAME=VALUE words and targets apart; UnclearError where a word is neither, or where the pairs are missing."""
    values = [word for word in following if _is_pair(word)]
    targets = [word for word in following if not _is_pair(word)]
    first_is_missing = bool(following) and not _is_pair(following[0]) and option.dest != MAY_BE_EMPTY
    if first_is_missing or not all(_may_be_target(word) for word in targets):
        raise UnclearError(" ".join(following))
    return values, targets


def _is_pair(word: str) -> bool:
    """NAME=VALUE (a slash in NAME makes it a path), or Snakemake's own encoding of one."""
    name, equals, _ = word.partition("=")
    return (bool(equals) and "/" not in name) or word.startswith("base64//")


def _may_be_target(word: str) -> bool:
    """A path or the name of a rule; not a number, `gpu:4` or a stray comma."""
    return "/" in word or re.fullmatch(r"[A-Za-z_][^\s:,;=]*", word) is not None


def is_users_command(argv: Sequence[str]) -> bool:
    """Whether this is a `snakemake` (or `python -m snakemake`) that a user typed, not one that Snakemake spawned."""
    program = PurePath(argv[0])
    called = program.name in ("snakemake", "snakemake.exe") or program.parts[-2:] == ("snakemake", "__main__.py")
    return called and not any(word.partition("=")[0] in ("--target-jobs", "--mode") for word in argv[1:])


def mend(argv: list[str]) -> None:
    """Rewrite the command line in place."""
    from snakemake.cli import get_argument_parser  # running already: it is what imports this module

    argv[1:] = split_targets(argv[1:], parser_options(get_argument_parser()))


class LogHandler(LogHandlerBase):
    """What Snakemake asks of a logger plugin; used only with `--logger ddlib`, and silent then."""

    writes_to_stream = False
    writes_to_file = False
    has_filter = False
    has_formatter = False
    needs_rulegraph = False

    def emit(self, record: LogRecord) -> None:
        """Nothing: Snakemake's own handler writes the log."""


if sys.argv and is_users_command(sys.argv):
    mend(sys.argv)
