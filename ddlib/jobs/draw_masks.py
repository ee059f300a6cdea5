"""Draw a chunk of sparsity masks for the outer iterations of an experiment."""

from __future__ import annotations

from ddlib.jobs.job import guarded, import_torch, parser, say


def main() -> None:
    """Entry point."""
    given = parser(__doc__).parse_args()
    import_torch()
    from ddlib.masks.chunks import draw_chunk

    spec = given.spec
    layers = draw_chunk(spec, given.output)["layers"]
    shares = ", ".join(f"{name} {layer['sparsity']:.4f}" for name, layer in layers.items())
    say(f"{spec['count']} masks of kind {spec['kind']} from outer iteration {spec['first']}; removed: {shares}")


if __name__ == "__main__":
    guarded(main)
