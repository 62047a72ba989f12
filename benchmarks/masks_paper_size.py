"""Masks of 60 directions at the paper's size (12 layers, 4,096 neurons), against the reference's way.

The reference's way, written anew: a torch file a direction with a boolean mask of W1's shape a layer. It is
measured for some directions (`--reference-directions`) and multiplied up to 60: each is like every other. The
trainer's share is what a model's process holds once all masks are read.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import common
import numpy as np

# of a side; EC30 has 60 directions
LAYERS, NEURONS, WIDTH, DIRECTIONS = 6, 4096, 1024, 60

REFERENCE = """
import sys, pathlib, numpy as np, torch
from neuron_specialization.activations.counts import read_activations
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.safetensors"))[: int(sys.argv[3])]:
    masks = {}
    for name, counts in read_activations(path)[0].items():
        ordered, where = torch.sort(torch.from_numpy(counts.copy()), descending=True)
        kept = int((ordered.cumsum(0) < counts.sum() * 0.95).sum()) + 1
        mask = torch.zeros(len(counts), %d, dtype=torch.bool)
        mask[where[:kept]] = True
        masks[name] = mask
    torch.save(masks, pathlib.Path(sys.argv[2]) / f"{path.stem}.pt")
"""

READING = """
import resource, sys, torch
from pathlib import Path
from neuron_specialization.storage.layer_masks import read_all_masks
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
directions = sorted(path.stem for path in Path(sys.argv[1]).iterdir())
masks = read_all_masks(Path(sys.argv[1]), directions)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def write_counts(folder: Path) -> None:
    """Write activation counts of a skewed distribution, as trained models have, for EC30's 60 directions."""
    from neuron_specialization.directions import known_languages
    from neuron_specialization.storage.layer_tensors import write_layers

    table, generator = known_languages(), np.random.default_rng(0)
    for code in (code for code in table if table[code].ec30_tier in ("high", "medium", "low")):
        for direction in (f"en-{code}", f"{code}-en"):
            counts = {
                f"{side}.layers.{index}": (generator.pareto(1.0, NEURONS) * 50).astype(np.int64)
                for side in ("encoder", "decoder")
                for index in range(LAYERS)
            }
            metadata = {"direction": direction, "model_sha256": "0" * 64}
            write_layers(folder / f"{direction}.safetensors", counts, metadata)


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--reference-directions", type=int, default=6)
    options = parser.parse_args()
    count = options.reference_directions
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_counts(folder / "counts")
        (folder / "reference").mkdir()
        environment = {"OMP_NUM_THREADS": str(options.threads)}
        ours = [sys.executable, "-m", "neuron_specialization", "masks", "--activations"]
        ours += [str(folder / "counts"), "--k", "95", "--packed", "--output", str(folder / "ours")]
        theirs = [sys.executable, "-c", REFERENCE % WIDTH, str(folder / "counts"), str(folder / "reference")]
        samples = common.interleave(
            {
                "ours": lambda: common.timed_command(ours, environment),
                "reference": lambda: common.timed_command([*theirs, str(count)], environment),
                "reference, start-up alone": lambda: common.timed_command([*theirs, "0"], environment),
            },
            options.rounds,
        )
        read = [sys.executable, "-c", READING, str(folder / "ours")]
        common.timed_command(read, environment, folder / "read")
        held = int((folder / "read").read_text().split()[-1])
        disk, reference_disk = size(folder / "ours"), size(folder / "reference") * DIRECTIONS // count
    seconds = common.spread([s.cpu for s in samples["ours"]])
    wall = common.spread([s.wall for s in samples["ours"]])
    memory = max(s.memory for s in samples["ours"])
    reference = common.spread(
        [
            start.cpu + (some.cpu - start.cpu) * DIRECTIONS / count
            for start, some in zip(samples["reference, start-up alone"], samples["reference"], strict=True)
        ]
    )
    what = "masks of 60 directions at the paper's size"
    rows = [
        common.Row(f"{what}: disk", f"{disk / 1e6:.2f} MB", "≤ 1 MB", disk <= 1e6),
        common.Row("… processor seconds", common.shown(seconds), "≤ 2", seconds["median"] <= 2),
        common.Row("… memory of the process", f"{memory / 1e6:.0f} MB", "≤ 300 MB", memory <= 300e6),
        common.Row("… memory they add to the trainer", f"{held / 1e6:.0f} MB", "≤ 300 MB", held <= 300e6),
        common.Row("… reference's way: disk", f"{reference_disk / 1e9:.2f} GB"),
        common.Row("… reference's way: processor seconds", common.shown(reference)),
    ]
    details = {"processor seconds": seconds, "wall seconds": wall, "disk bytes": disk, "memory": memory}
    details |= {"reference's disk": reference_disk, "reference's processor seconds": reference}
    common.write_result("masks_paper_size", rows, details, threads=options.threads, samples=samples)


if __name__ == "__main__":
    main()
