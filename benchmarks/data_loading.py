"""Target tokens an update: batches of one direction against mixed ones, at equal max-tokens, over an epoch.

Counted, not timed: a fuller batch is more text for nearly the same step.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import common
from trainer import batches_of, demo_recipe, make_trainer

AIM = -0.02


def main() -> None:
    parser = common.arguments(__doc__, demo=True)
    parser.add_argument("--max-tokens", type=int, nargs="+", default=[1024, 2048])
    options = parser.parse_args()
    common.demo_files(options.demo, "binarized", "training/baseline/model.json")
    rows, details = [], {}
    for max_tokens in options.max_tokens:
        mean = {}
        for batching in ("mixed", "single-direction"):
            recipe = demo_recipe(options.demo, max_tokens=max_tokens, batching=batching)
            with tempfile.TemporaryDirectory() as scratch:
                trainer = make_trainer(recipe, options.demo / "binarized", Path(scratch))
                mean[batching] = statistics.fmean(b["ntokens"] for b in batches_of(trainer))
        difference = mean["single-direction"] / mean["mixed"] - 1
        details[f"max-tokens {max_tokens}"] = mean | {"difference": difference}
        rows.append(
            common.Row(
                f"target tokens an update, single-direction against mixed, max-tokens {max_tokens}",
                f"{difference:+.1%}",
                f"≥ {AIM:+.0%}",
                difference >= AIM,
            )
        )
    common.write_result("data_loading", rows, details)


if __name__ == "__main__":
    main()
