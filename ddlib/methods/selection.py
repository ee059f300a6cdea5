"""Images that are selected from real ones: RDED's crops by an observer, random crops, herding and k-means.

As a set of their own (RDED stitches crops, which are stored as bytes and seen whole: Recipe.grid) or as what another
method begins with (packed, and decoded: Recipe.factor).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ddlib.data.native import Native
from ddlib.methods.recipe import Problem, Recipe
from ddlib.sets.candidates import cropped, drawn_boxes, drawn_files
from ddlib.sets.centres import herding, kmeans
from ddlib.sets.packing import pack, stitch, through_jpeg, to_bytes
from ddlib.sets.realism import AT_ONCE, Observe, score_crops
from ddlib.sets.scores import Crops, ScoreTable
from ddlib.streams import Streams
from ddlib.train.compiler import decide, forward_flops
from ddlib.train.scoring import Scorer


def select(recipe: Recipe, problem: Problem) -> tuple[Tensor, Tensor | None]:
    """(images of all budgets, each class by class; the real images their cells show, where they are crops).

    Images are uint8 where the recipe stitches, else shares float32 [N, C, H, W]; origin int64 [N, factor^2].
    """
    if recipe.init in ("herding", "kmeans"):
        return torch.cat([_centres(recipe, problem, ipc) for ipc in problem.budgets]), None
    native, side = _given(recipe, problem)
    table = _table(recipe, problem, native) if recipe.init == "rded" else None
    images, origins = [], []
    for ipc in problem.budgets:
        for label in problem.classes:
            chosen = _crops(recipe, problem, native, table, label, ipc)
            images.append(_made(recipe, problem, native, chosen, ipc, side))
            origins.append(chosen.file.reshape(-1, ipc).T)
    return torch.cat(images), torch.cat(origins)


def _cells(recipe: Recipe) -> int:
    """Crops (or images) a side of a stored image."""
    return recipe.grid or recipe.factor


def _given(recipe: Recipe, problem: Problem) -> tuple[Native, int]:
    """(native images, the side of a crop). ValueError where crops cannot be cut."""
    data, cells = problem.data, _cells(recipe)
    if problem.native is None:
        raise ValueError(f"{recipe.init} cuts crops from native images: give the problem `native`")
    if data.space != "unit" or data.height != data.width or cells > data.height:
        raise ValueError(
            f"crops are of square images of shares 0-1 that have a pixel for each cell: {data.name} has {data.space} "
            f"pixels and {data.height} x {data.width} px, the factor is {cells}"
        )
    return problem.native, data.height // cells


def _table(recipe: Recipe, problem: Problem, native: Native) -> ScoreTable:
    """The score table that is given, or one made here by the problem's own network."""
    data, cells = problem.data, _cells(recipe)
    if problem.scores is not None:
        problem.scores.check(data.height, cells)
        return problem.scores
    if "mipc" not in recipe.options:
        raise ValueError("images that begin as RDED's need a score table: name the `observer` of the experiment")
    many = len(problem.classes) * recipe.options["mipc"] * recipe.options["crops"]
    observe = problem.observe or _stage_network(problem, many)
    return score_crops(
        native,
        data,
        observe,
        classes=problem.classes,
        mipc=recipe.options["mipc"],
        crops=recipe.options["crops"],
        size=data.height,
        factor=cells,
        seed=problem.seed,
        device=data.labels.device,
        exclude=_used(problem),
    )


def _stage_network(problem: Problem, crops: int) -> Observe:
    """The network of this stage of a progressive distillation, as an observer of so many crops."""
    if problem.network is None or (problem.rows is None and problem.frozen is None):
        raise ValueError(
            "RDED scores crops by a trained network, and none is given: name the `observer` of the experiment, or (in "
            "stages) the `pool` and `view` whose networks judge"
        )
    start, data, how = problem.start(1), problem.data, problem.execution
    flops = crops * forward_flops(start.net, (data.channels, data.height, data.width))
    compiler = decide(how.compile, data.labels.device.type, flops)
    state, scorer = start.draw(0), Scorer(start.net, data.labels.device, compiler, how.precision)
    return lambda x: scorer.forward(state.params, state.buffers, x)


def _used(problem: Problem) -> Tensor | None:
    """The real images shown by earlier stages (None: there are none, or they do not say)."""
    frozen = problem.frozen
    return None if frozen is None or frozen.origin is None else torch.unique(frozen.origin)


def _crops(recipe: Recipe, problem: Problem, native: Native, table: ScoreTable | None, label: int, ipc: int) -> Crops:
    """The crops of one class, in order. Images of earlier stages are passed over."""
    used = _used(problem)
    n = ipc * _cells(recipe) ** 2
    first = n * problem.stage if used is None else 0
    if table is not None:
        found = table.cut(label, first + n, used)
        return Crops(found.file[first:], found.box[first:])
    name = problem.data.class_names[label]
    files = drawn_files(native, label, first + n, problem.seed, name, used)[first:]
    sizes = [native.read(int(i)).shape[1:] for i in files]
    boxes = [drawn_boxes(problem.seed, label, int(i), 1, *size) for i, size in zip(files, sizes, strict=True)]
    return Crops(files, torch.cat([torch.from_numpy(box) for box in boxes]).int())


def _made(recipe: Recipe, problem: Problem, native: Native, chosen: Crops, ipc: int, side: int) -> Tensor:
    """Stored images of one class [ipc, C, size, size] from its crops."""
    pairs = zip(chosen.file, chosen.box, strict=True)
    patches = torch.cat([cropped(native.read(int(i)), box[None], side, native.scale) for i, box in pairs])
    cells, size = _cells(recipe), problem.data.height
    if not recipe.grid:
        return stitch(patches, ipc, cells, size).to(problem.data.labels.device)
    made = stitch(to_bytes(patches), ipc, cells, size)
    return (through_jpeg(made) if recipe.options["store"] == "jpeg75" else made).to(problem.data.labels.device)


def _centres(recipe: Recipe, problem: Problem, ipc: int) -> Tensor:
    """Whole images of each class that stand for it, packed [classes * ipc, C, H, W]; stages take the next ones."""
    data, pick = problem.begins_from or problem.data, herding if recipe.init == "herding" else kmeans
    streams, found = Streams(problem.seed, "coreset"), []
    n = ipc * recipe.factor**2
    for label in problem.classes:
        members = data.of_class(label)
        if (wanted := n * (problem.stage + 1)) > len(members):
            raise ValueError(
                f"class {label} ({data.class_names[label]}) of {data.name} has {len(members)} images; {recipe.init} of "
                f"ipc {ipc} with factor {recipe.factor} in {problem.stage + 1} stage(s) takes {wanted}. Lower ipc or "
                "factor."
            )
        features = _features(recipe.options.get("features", "pixels"), problem, members)
        chosen = pick(features.double().cpu().numpy(), [n] * (problem.stage + 1), streams.integer("centres", label))
        found.append(pack(data.pixels(members[torch.from_numpy(chosen[-1]).to(members.device)]), ipc, recipe.factor))
    return torch.cat(found)


def _features(kind: str, problem: Problem, members: Tensor) -> Tensor:
    """What distances are measured in [n, d]: pixels, or the observer's logits."""
    data = problem.begins_from or problem.data
    if kind == "pixels":
        return data.pixels(members).flatten(1)
    if problem.observe is None:
        raise ValueError("features of an observer were asked for: name the `observer` of the experiment")
    parts = torch.split(members, AT_ONCE[members.device.type])
    with torch.no_grad():
        return torch.cat([problem.observe(data.normalise(data.pixels(part))) for part in parts])
