"""Dry runs at a third of their cost: one process imports Snakemake and forks for each.

Nothing of ddlib is imported before the fork (tests/dryrun_server.py), so every dry run reads the code and configuration
of its own folder.
"""

import atexit
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

from every import Every


class DryRuns:
    """The process that forks; `shared` is one a session."""

    def __init__(self):
        kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MLFLOW_TRACKING_URI")}
        command = [sys.executable, str(Path(__file__).with_name("dryrun_server.py"))]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**kept, "OMP_NUM_THREADS": "1"}
        )

    @classmethod
    @functools.cache
    def shared(cls):
        """One that ends with the session."""
        found = cls()
        atexit.register(found.close)
        return found

    def ask(self, folder, words):
        """A finished `snakemake --cores 2 WORDS` in a folder."""
        print(json.dumps([str(folder), words]), file=self.process.stdin, flush=True)
        code, out, err = json.loads(self.process.stdout.readline())
        return subprocess.CompletedProcess(words, code, out, err)

    def close(self):
        """End it."""
        self.process.stdin.close()
        self.process.wait(60)


class Quick(Every):
    """A finished suite of every rule whose dry runs are forked."""

    def snakemake(self, *words):
        """Dry runs from the fork, others as ever."""
        return DryRuns.shared().ask(self.folder, words) if words[:1] == ("-n",) else super().snakemake(*words)
