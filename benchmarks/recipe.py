"""The recipe of the demonstration's baseline, and the same with one choice undone at a time.

Each is trained as the demonstration trains it; the validation loss is that of the last update, and no matter
of the machine. What an update costs is processor time, validation and start-up included, measured once.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import common
from trainer import ADAM, demo_recipe, train

# what is undone: (of the model, of the training)
CHOICES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as it is": ({}, {}),
    "Adam": ({}, ADAM),
    "four heads": ({"heads": 4}, {}),
    "three encoder layers": ({"encoder_layers": 3}, {}),
    "dropout 0.1": ({}, {"dropout": 0.1}),
}


def trained(options: Any, choice: str, updates: int) -> dict[str, float]:
    """Train with one choice undone: loss and nll of the last validation, processor seconds of an update."""
    model, training = CHOICES[choice]
    # the demonstration's share of warming up: 100 of 1,400
    scheduled = {"max_updates": updates, "warmup_updates": updates // 14}
    recipe = demo_recipe(options.demo, model=model, **(training | scheduled))
    with tempfile.TemporaryDirectory() as scratch:
        records, sample = train(recipe, options.demo / "binarized", Path(scratch) / "model", options.threads)
    last = [record for record in records if record["kind"] == "valid"][-1]
    assert last["update"] == updates
    found = {"loss": last["loss"], "nll": last["nll"], "cpu_seconds_per_update": sample.cpu / updates}
    print(choice, updates, found, file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = common.arguments(__doc__, demo=True, threads=2)
    parser.add_argument("--updates", type=int, help="default: the demonstration's")
    parser.add_argument("--choices", nargs="+", choices=list(CHOICES), default=list(CHOICES))
    options = parser.parse_args()
    common.demo_files(options.demo, "binarized", "training/baseline/model.json")
    updates = options.updates or demo_recipe(options.demo).training.max_updates
    found = {choice: trained(options, choice, updates) for choice in options.choices}
    first = found[options.choices[0]]["cpu_seconds_per_update"]
    rows = [
        common.Row(
            f"the demo's baseline, {choice}: validation loss after {updates:,} updates (bits a token); "
            "processor time of an update / as it is",
            f"{one['loss']:.3f}; {one['cpu_seconds_per_update'] / first:.2f}",
        )
        for choice, one in found.items()
    ]
    common.write_result("recipe", rows, {f"{updates} updates": found}, threads=options.threads)


if __name__ == "__main__":
    main()
