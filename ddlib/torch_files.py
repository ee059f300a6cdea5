"""Files of official repositories, written by ``torch.save``: the one place where a pickle is read.

Only tensors and plain containers come out of it (``weights_only``): a pickle that asks for anything else could run any
code, and is refused. What we write ourselves is safetensors, JSON or CSV.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddlib.artifacts import ArtifactError


def load_plain(path: str | Path, also: Sequence[type] = ()) -> Any:
    """Tensors (on the CPU, mapped from the file where its format allows) in lists, tuples and dictionaries.

    `also`: plain classes, whose making runs no code, that it may hold besides (such as ``argparse.Namespace``).
    ArtifactError if there is no such file, it is none of ``torch.save``, or it holds anything else.
    """
    import torch

    if not Path(path).is_file():
        raise ArtifactError(f"{path} does not exist. Name a file that torch.save wrote, such as replay_buffer_0.pt.")
    try:
        with torch.serialization.safe_globals(list(also)):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        reason = str(error).strip().split("\n")[0]
        raise ArtifactError(
            f"{path} is no file of torch.save with plain tensors in lists alone, so it is not read: a pickle of other "
            f"things can run any code ({reason[:200]}). Save its tensors alone, where you trust it."
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{path} is damaged, or no file of torch.save ({str(error)[:200]}).") from None
