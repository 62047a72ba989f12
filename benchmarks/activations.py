"""Activation counts of 8 directions: one command for all, against the reference's way.

The reference's way (reference_activations.py) is a process a direction: import fairseq, load the model, run
it over the validation text in batches of up to 30,000 padded tokens, count with `nonzero` over all positions.
Whole processes are timed. Counting without padding gives other numbers by design; that both sides count
right is shown by this project's parity mode (`--count-padding`), whose counts must be the reference's.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import common
import numpy as np
from reference_activations import MAX_TOKENS

AIM = 8
DIRECTIONS = ["en-de", "de-en", "en-es", "es-en", "en-nl", "nl-en", "en-sv", "sv-en"]


def main() -> None:
    options = common.arguments(__doc__, demo=True).parse_args()
    common.demo_files(options.demo, "binarized", "training/baseline/model.pt")
    checkpoint, data_bin = options.demo / "training/baseline/model.pt", options.demo / "binarized"
    environment = {"OMP_NUM_THREADS": str(options.threads)}
    ours = [sys.executable, "-m", "neuron_specialization", "activations", "--checkpoint", str(checkpoint)]
    ours += ["--data-bin", str(data_bin), "--directions", ",".join(DIRECTIONS)]
    reference = [sys.executable, str(Path(__file__).with_name("reference_activations.py"))]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)

        def run_ours() -> common.Sample:
            return common.timed_command([*ours, "--output", str(folder / "ours")], environment)

        def run_reference() -> common.Sample:
            taken = [
                common.timed_command(
                    [*reference, str(checkpoint), str(data_bin), direction, str(folder / f"{direction}.npz")],
                    environment,
                    folder / "reference.log",
                )
                for direction in DIRECTIONS
            ]
            return common.Sample(
                sum(s.wall for s in taken), sum(s.cpu for s in taken), max(s.memory for s in taken)
            )

        samples = common.interleave({"ours": run_ours, "reference": run_reference}, options.rounds)
        flags = ["--count-padding", "--max-tokens", str(MAX_TOKENS), "--output", str(folder / "parity")]
        common.timed_command([*ours, *flags], environment)
        equal = sum(same(folder / "parity", folder, direction) for direction in DIRECTIONS)
    cpu = common.ratio([s.cpu for s in samples["reference"]], [s.cpu for s in samples["ours"]])
    wall = common.ratio([s.wall for s in samples["reference"]], [s.wall for s in samples["ours"]])
    details: dict[str, Any] = {"processor time": cpu, "wall time": wall, "directions equal": equal}
    rows = [
        common.Row(
            "activation counts of 8 directions, times faster than the reference's way (processor time)",
            common.shown(cpu, 1),
            f"≥ {AIM}",
            cpu["median"] >= AIM,
        ),
        common.Row("… wall time", common.shown(wall, 1)),
        common.Row(
            "… directions whose counts with padding equal the reference's",
            f"{equal} of {len(DIRECTIONS)}",
            f"{len(DIRECTIONS)}",
            equal == len(DIRECTIONS),
        ),
    ]
    common.write_result("activations", rows, details, threads=options.threads, samples=samples)


def same(parity: Path, reference: Path, direction: str) -> bool:
    """Whether the two files hold the same counts."""
    from neuron_specialization.activations.counts import read_activations

    layers, _ = read_activations(parity / f"{direction}.safetensors")
    with np.load(reference / f"{direction}.npz") as counts:
        return set(layers) == set(counts) and all(np.array_equal(layers[n], counts[n]) for n in layers)


if __name__ == "__main__":
    os.chdir(common.ROOT)
    main()
