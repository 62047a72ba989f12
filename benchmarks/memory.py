"""Memory: the largest resident set of a training with masks of 60 directions against the dense one.

Each runs in a process of its own, on the same batches: the model with masks of 60 directions (those of the
demonstration, and others that the batches do not hold), and the model without. Mixed batches, and
batches of one direction.
"""

from __future__ import annotations

import resource
import sys
import tempfile
from pathlib import Path

import common

AIM = 1.02


def train(demo: Path, batching: str, masked: bool, steps: int) -> None:
    """Some steps in this process; print its largest resident set in bytes."""
    import torch
    from trainer import batches_of, demo_recipe, make_trainer

    recipe = demo_recipe(demo, batching=batching)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        masks = None
        if masked:
            from specialised_step import random_masks

            masks = random_masks(folder / "masks", recipe.directions, recipe.model.model_dump(), 0.5)
        trainer = make_trainer(recipe, demo / "binarized", folder, masks)
        if masked:
            for fc1 in trainer.model.masked_layers().values():
                others = torch.rand(60 - len(recipe.directions), fc1.out_features) < 0.5
                fc1.masks = torch.cat([fc1.masks, others])
                fc1.forget()
        for batch in batches_of(trainer, steps):
            trainer.train_step([batch])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def main() -> None:
    parser = common.arguments(__doc__, demo=True)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument(
        "--child", nargs=2, metavar=("BATCHING", "MASKED"), help="used by this program itself"
    )
    options = parser.parse_args()
    common.demo_files(options.demo, "binarized", "training/baseline/model.json")
    common.as_trainer(options.threads)
    if options.child:
        train(options.demo, options.child[0], options.child[1] == "masked", options.steps)
        return
    command = [sys.executable, __file__, "--demo", str(options.demo), "--steps", str(options.steps)]
    ways = {
        f"{kind}, {batching}": lambda batching=batching, kind=kind: common.timed_command(
            [*command, "--child", batching, kind]
        )
        for batching in ("mixed", "single-direction")
        for kind in ("dense", "masked")
    }
    samples = common.interleave(ways, options.rounds)
    rows, details = [], {}
    for batching in ("mixed", "single-direction"):
        found = common.ratio(
            [s.memory for s in samples[f"masked, {batching}"]],
            [s.memory for s in samples[f"dense, {batching}"]],
        )
        details[batching] = found
        rows.append(
            common.Row(
                f"largest memory of a training with masks of 60 directions / dense, {batching}",
                common.shown(found, 3),
                f"≤ {AIM}",
                found["median"] <= AIM,
            )
        )
    common.write_result("memory", rows, details, threads=options.threads, samples=samples)


if __name__ == "__main__":
    main()
