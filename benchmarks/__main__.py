"""`make bench`: the hot steps of gradient matching against the plain formulation, in one run; a table and a CSV."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import fields, replace
from pathlib import Path

HERE = Path(__file__).parent
QUICK = {"classes": 2, "network_samples": 256}


def options() -> argparse.ArgumentParser:
    """The command line."""
    from benchmarks.problem import PARTS, Size

    found = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    found.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    found.add_argument("--threads", type=int, default=0, help="CPU threads; 0: all this process may use")
    found.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    found.add_argument("--precisions", nargs="+", choices=("fp32", "tf32", "bf16"), help="default: all the device has")
    found.add_argument("--repeats", type=int, default=0, help="timed calls of each, in turns; 0: 5, or 3 with --quick")
    found.add_argument("--compile", choices=("always", "never"), default="always", help="ddlib's functions")
    found.add_argument("--no-memory", action="store_true", help="leave out peak memory (a process a variant and part)")
    found.add_argument("--quick", action="store_true", help="2 classes and 4 network steps instead of 10 and 32")
    found.add_argument("--output", type=Path, default=HERE / "results", help="folder of the CSV")
    sizes = found.add_argument_group("size of the problem (default: IDC on CIFAR-10)")
    for field in fields(Size):
        sizes.add_argument(f"--{field.name.replace('_', '-')}", type=int)
    return found


def _all_threads() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def main() -> None:
    """Entry point: a device is leased before anything computes, and all is compiled anew in a folder that goes away."""
    parser = options()
    given = parser.parse_args()
    from benchmarks.problem import Size
    from ddlib.devices import lease

    chosen = {field.name: getattr(given, field.name) for field in fields(Size)}
    known = {**(QUICK if given.quick else {}), **{key: value for key, value in chosen.items() if value is not None}}
    size = replace(Size(), **known)
    threads = given.threads or _all_threads()
    repeats = given.repeats or (3 if given.quick else 5)
    asked = lease({"device": given.device, "threads": threads}, int(given.device != "cpu"))
    with tempfile.TemporaryDirectory() as cache, asked as held:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        from benchmarks import report
        from benchmarks.suite import Suite

        suite = Suite(size, held.device, threads, given.compile, repeats, given.parts, given.precisions)
        table = suite.run(memory=not given.no_memory)
    path = report.write(table, given.output)
    print(report.text(table))
    print(f"written: {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
