"""Muon and Adam at their learning rates: loss after equal updates, and the time.

Trainings of the demonstration's baseline, scheduled over the updates asked for. The losses are no matter of
the machine; the seconds of an update are wall time, validations and start-up included.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import common
from trainer import ADAM, demo_recipe, train

MUON = ADAM | {"optimizer": "muon", "muon_lr_ratio": 0.5, "lr": 1e-2}
KINDS = {"adam": ADAM, "muon": MUON}


def trained(options: Any, kind: str, updates: int) -> dict[str, float]:
    """Train by one of them; the last validation, and the seconds of an update."""
    recipe = demo_recipe(
        options.demo,
        **KINDS[kind],
        max_updates=updates,
        validate_every=updates,
        save_every=updates,
        warmup_updates=updates // 10,
    )
    with tempfile.TemporaryDirectory() as scratch:
        records, sample = train(recipe, options.demo / "binarized", Path(scratch) / "model", options.threads)
    last = [record for record in records if record["kind"] == "valid"][-1]
    found = {"loss": last["loss"], "nll": last["nll"], "seconds_per_update": sample.wall / updates}
    print(kind, updates, found, file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = common.arguments(__doc__, demo=True, threads=2)
    parser.add_argument("--updates", type=int, nargs="+", default=[1000])
    options = parser.parse_args()
    common.demo_files(options.demo, "binarized", "training/baseline/model.json")
    rows, details = [], {}
    for updates in options.updates:
        found = {kind: trained(options, kind, updates) for kind in KINDS}
        details[f"{updates} updates"] = found
        rows += [
            common.Row(
                f"validation loss after {updates:,} updates of the demo's baseline, {kind} (bits a token)",
                f"{found[kind]['loss']:.3f}",
            )
            for kind in KINDS
        ]
        ratio = found["muon"]["seconds_per_update"] / found["adam"]["seconds_per_update"]
        rows.append(common.Row("… seconds of an update, muon / adam (once)", f"{ratio:.2f}"))
    common.write_result("optimizer", rows, details, threads=options.threads)


if __name__ == "__main__":
    main()
