"""Configuration files as plain values: YAML that is safe to load, of bearable size, without a key given twice.

A small file can stand for an enormous map (aliases of aliases) or one without end (an alias of what it is in): its
nodes are counted as they would be copied before anything is built of them. Nothing here imports torch.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

MOST_BYTES = 5_000_000
MOST_VALUES = 500_000
MOST_DEPTH = 50
MOST_INTEGER = 2**63 - 1
_MERGE = "tag:yaml.org,2002:merge"


def load(path: str | Path) -> Any:
    """What a YAML file holds (None: nothing). ValueError, naming the file, if it is missing or no such file."""
    import yaml

    text = _text(Path(path))
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        _Count(path).size(root, 0)
        return loader.construct_document(root)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    except RecursionError:
        raise ValueError(f"{path} is nested deeper than {MOST_DEPTH} levels: no configuration is") from None


def _text(path: Path) -> str:
    """The text of a file. ValueError if it cannot be read, is enormous or of another encoding."""
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise ValueError(f"{path} has {size / 1e6:.0f} MB: this is no configuration")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist: run this where it is, in the folder of the workflow") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 (byte {error.start}): save it as such") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None


class _Count:
    """Counts the values that nodes of YAML stand for, aliases as often as they are used."""

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self.sizes: dict[int, int] = {}  # by node; 0: we are in it

    def size(self, node: Any, depth: int) -> int:
        """How many values `node` stands for. ValueError, with its line, where there is something wrong with it."""
        if id(node) in self.sizes:
            if not self.sizes[id(node)]:
                self.refuse(node, "an alias stands within what it is an alias of")
            return self.sizes[id(node)]
        if depth > MOST_DEPTH:
            self.refuse(node, f"nested deeper than {MOST_DEPTH} levels: no configuration is")
        self.sizes[id(node)] = 0
        found = 1 + sum(self.size(child, depth + 1) for child in self.children(node))
        if found > MOST_VALUES:
            self.refuse(node, f"aliases that stand for more than {MOST_VALUES} values: this is no configuration")
        self.sizes[id(node)] = found
        return found

    def children(self, node: Any) -> list[Any]:
        """The nodes directly within one; of a map its keys and values."""
        if isinstance(node.value, str):
            self.scalar(node)
            return []
        if not all(isinstance(child, tuple) for child in node.value):
            return list(node.value)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            name = (key.tag, str(key.value))
            if name in seen and key.tag != _MERGE:
                self.refuse(
                    key, f"the key {str(key.value)[:80]!r} stands here for the second time: leave one of the two"
                )
            seen.add(name)
        return [child for pair in node.value for child in pair]

    def scalar(self, node: Any) -> None:
        """Refuse what YAML would take for a number of thousands of digits, or for a date that is none."""
        kind = node.tag.rpartition(":")[2]
        if kind in ("int", "float") and len(node.value) > 100:
            self.refuse(node, f"a number of {len(node.value)} digits")
        if kind == "timestamp":
            self.refuse(node, f"{node.value} is a date to YAML: quote it")

    def refuse(self, node: Any, why: str) -> None:
        """ValueError with the line of a node."""
        raise ValueError(f"{self.path}, line {node.start_mark.line + 1}: {why}")


def problems(value: Any) -> list[str]:
    """Values of a configuration that no setting could have, each with its key: numbers that are none, text that is
    no text, what JSON has no word for, and more, or deeper nested, than any configuration."""
    found, waiting, count = [], [("", value, 0)], 0
    while waiting:
        where, held, depth = waiting.pop()
        count += 1
        if count > MOST_VALUES:
            return [f"config: it has more than {MOST_VALUES} values"]
        if depth <= MOST_DEPTH and isinstance(held, dict | list):
            inside = list(held.items() if isinstance(held, dict) else enumerate(held))
            waiting += [(f"{where}.{key}" if where else str(key), item, depth + 1) for key, item in reversed(inside)]
        elif problem := _problem(held):
            found.append(f"{where or 'config'}: {problem}")
    return found


def _problem(leaf: Any) -> str | None:
    if isinstance(leaf, dict | list):
        return f"nested deeper than {MOST_DEPTH} levels: no setting is"
    if isinstance(leaf, float) and not math.isfinite(leaf):
        return f"{leaf} is no number to work with"
    if isinstance(leaf, int) and abs(leaf) > MOST_INTEGER:
        return "a number of more than 64 bits: no setting is so large"
    if isinstance(leaf, str) and any(sign == "\0" or "\ud800" <= sign <= "\udfff" for sign in leaf):
        return f"{leaf[:80]!r} has signs that no file or program can be told of"
    if leaf is not None and not isinstance(leaf, bool | int | float | str):
        return f"{leaf!r} is of a kind ({type(leaf).__name__}) that no setting has: quote it, if it is a word"
    return None
