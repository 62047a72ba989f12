"""How long `masks` takes at the paper's size, and how large its files are.

The size is 60 directions, 12 layers, 4,096 neurons.

Prints and writes benchmarks/results/masks.json: wall time and processor time, which a busy machine does not
lengthen, and bytes on disk, for both orders of equal counts (torch-sort has to import torch).

    python benchmarks/masks.py
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
LAYERS, NEURONS = 6, 4096


def write_counts(folder: Path) -> None:
    """Write activation counts of a skewed distribution, as trained models have, for EC30's 60 directions."""
    from neuron_specialization.directions import known_languages
    from neuron_specialization.layer_tensors import write_layers

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


def measure(activations: Path, output: Path, tie_break: str) -> dict[str, Any]:
    """Run the command and look at what it wrote."""
    command = [sys.executable, "-m", "neuron_specialization", "masks", "--activations", str(activations)]
    flags = ["--k", "95", "--tie-break", tie_break, "--packed", "--output", str(output)]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([*command, *flags], check=True, capture_output=True)
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    files = list(output.iterdir())
    return {
        "files": len(files),
        "bytes": sum(path.stat().st_size for path in files),
        "wall_seconds": round(wall, 2),
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_counts(folder / "activations")
        results = {
            name: measure(folder / "activations", folder / name, name) for name in ("index", "torch-sort")
        }
    report = {**results, "load_average": round(os.getloadavg()[0], 1), "cpus": os.cpu_count()}
    output = ROOT / "benchmarks/results/masks.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
