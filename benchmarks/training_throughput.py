"""Training by the fast implementation against stock `fairseq-train`: same data, arguments and seed.

Both run as a user runs them: the fast one by this project's `train` command, stock by fairseq's own entry
point without allocator settings. Throughput is real target tokens over the time between two log lines, so
start-up is left out. The losses of the same updates are compared too: the batches are the same.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import common
from trainer import demo_recipe

AIM, LOSS_TOLERANCE = 1.7, 0.005


def run_stock(recipe: Any, data_bin: Path, folder: Path, threads: int) -> list[dict[str, float]]:
    """fairseq-train; return its training records."""
    from neuron_specialization.progress import parse_record
    from neuron_specialization.trainer_arguments import Resources, trainer_arguments

    command = [sys.executable, "-m", "fairseq_cli.train"]
    given = trainer_arguments(recipe, data_bin, folder / "checkpoints", resources=Resources(threads=threads))
    environment = {"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_"):
        os.environ.pop(name, None)
    folder.mkdir(parents=True)
    common.timed_command([*command, *given, "--no-save", "--disable-validation"], environment, folder / "log")
    records = [parse_record(line) for line in (folder / "log").read_text().splitlines()]
    return [
        {"update": r.update, "loss": r.loss, "tokens_per_second": r.tokens_per_second}
        for r in records
        if r is not None and r.kind == "train"
    ]


def run_ours(recipe: Any, data_bin: Path, folder: Path, threads: int) -> list[dict[str, float]]:
    """`train`; return its training records."""
    command = [sys.executable, "-m", "neuron_specialization", "train", "--recipe", recipe.model_dump_json()]
    flags = ["--data-bin", str(data_bin), "--output", str(folder), "--threads", str(threads)]
    common.timed_command([*command, *flags], output=folder.parent / f"{folder.name}.log")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record for line in lines if (record := json.loads(line))["kind"] == "train"]


def throughput(records: list[dict[str, float]], skip: int) -> float:
    """Mean target tokens a second over the log lines after the first updates."""
    values = [r["tokens_per_second"] for r in records if r["update"] > skip and r["tokens_per_second"]]
    return len(values) / sum(1 / value for value in values)


def main() -> None:
    parser = common.arguments(__doc__, demo=True, threads=2)
    parser.add_argument("--updates", type=int, default=120)
    options = parser.parse_args()
    common.demo_files(options.demo, "binarized", "training/baseline/model.json")
    updates = options.updates
    settings: dict[str, Any] = {"max_updates": updates, "warmup_updates": min(500, updates // 2)}
    settings |= {"validate_every": updates, "save_every": updates}
    fast = demo_recipe(options.demo, **settings)
    exact = demo_recipe(options.demo, **settings, products="fp32")
    stock = demo_recipe(options.demo, **settings, products="fp32", implementation="stock")
    found: dict[str, list[float]] = {"stock": [], "fast": [], "fast, fp32 products": []}
    losses: dict[str, dict[int, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(options.rounds):
            for name, run, recipe in (
                ("stock", run_stock, stock),
                ("fast", run_ours, fast),
                ("fast, fp32 products", run_ours, exact),
            ):
                folder = Path(scratch) / f"{name.replace(', ', '-').replace(' ', '-')}-{number}"
                records = run(recipe, options.demo / "binarized", folder, options.threads)
                found[name].append(throughput(records, updates // 4))
                losses[name] = {int(r["update"]): r["loss"] for r in records}
                print(name, found[name][-1], file=sys.stderr, flush=True)
    rows, details = [], {"updates": updates, "target tokens a second": found}
    for name in ("fast", "fast, fp32 products"):
        speed = common.ratio(found[name], found["stock"])
        gap = max(abs(losses[name][u] / losses["stock"][u] - 1) for u in losses["stock"] if u in losses[name])
        details[name] = {"speed": speed, "largest relative difference of a logged loss": gap}
        label = "products: auto" if name == "fast" else "products: fp32"
        rows += [
            common.Row(
                f"training, target tokens/s / stock fairseq-train, {label}",
                common.shown(speed),
                f"≥ {AIM}" if name == "fast" else "",
                speed["median"] >= AIM if name == "fast" else None,
            ),
            common.Row(
                f"… largest difference of a logged loss, {label}",
                f"{gap:.3%}",
                f"≤ {LOSS_TOLERANCE:.1%}",
                gap <= LOSS_TOLERANCE,
            ),
        ]
    common.write_result("training_throughput", rows, details, threads=options.threads)


if __name__ == "__main__":
    main()
