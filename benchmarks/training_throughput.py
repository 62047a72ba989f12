"""Training by the fast implementation against stock `fairseq-train`: same data, arguments and seed.

Both run as a user runs them: the fast one by this project's `train` command, stock by fairseq's own entry
point without allocator settings. Throughput is real target tokens over the time between two log lines, so
start-up is left out. The losses of the same updates are compared too: the batches are the same.

On a busy machine that is no measure: `--busy` counts target tokens a second of processor time instead, one
thread, in a process for each of the two, after some updates to warm up.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import common
from trainer import ADAM, demo_recipe, train

AIM, LOSS_TOLERANCE = 1.7, 0.005


def run_stock(recipe: Any, data_bin: Path, folder: Path, threads: int) -> list[dict[str, float]]:
    """fairseq-train; return its training records."""
    from neuron_specialization.training.arguments import Resources, trainer_arguments
    from neuron_specialization.training.progress import parse_record

    command = [sys.executable, "-m", "fairseq_cli.train"]
    # stock fairseq has one process on a CPU: it accumulates the micro-batches, with all threads
    given = trainer_arguments(recipe, data_bin, folder / "checkpoints", resources=Resources(threads=1))
    environment = {"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_"):
        os.environ.pop(name, None)
    folder.mkdir(parents=True)
    common.timed_command([*command, *given, "--no-save", "--disable-validation"], environment, folder / "log")
    records = [parse_record(line) for line in (folder / "log").read_text().splitlines()]
    return [
        {"update": r.update, "loss": r.loss, "tokens_per_second": r.tokens_per_second or 0.0}
        for r in records
        if r is not None and r.kind == "train"
    ]


def run_ours(recipe: Any, data_bin: Path, folder: Path, threads: int) -> list[dict[str, float]]:
    """`train`; return its training records."""
    records, _ = train(recipe, data_bin, folder, threads)
    return [record for record in records if record["kind"] == "train"]


def child(options: Any) -> None:
    """Some updates in this process; print target tokens a processor second, and the losses."""
    import time

    from trainer import batches_of, make_trainer, target_tokens

    implementation, products = options.child
    recipe = demo_recipe(options.demo, **ADAM, implementation=implementation, products=products)
    losses = []
    with tempfile.TemporaryDirectory() as scratch:
        trainer = make_trainer(recipe, options.demo / "binarized", Path(scratch))
        batches = list(batches_of(trainer, options.updates))
        warm = len(batches) // 4
        for number, batch in enumerate(batches):
            if number == warm:
                started = time.process_time()
            logged = trainer.train_step([batch])
            losses.append(float(logged["loss"]))
        seconds = time.process_time() - started
    print(json.dumps({"speed": target_tokens(batches[warm:]) / seconds, "losses": losses}))


def busy(options: Any) -> None:
    """The comparison by processor time."""
    from neuron_specialization.training.arguments import Resources, trainer_environment

    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")} | {"OMP_NUM_THREADS": "1"}
    quick = trainer_environment(os.environ, resources=Resources(threads=1))
    kinds = {
        "stock": ("stock", "fp32", clean),
        "fast": ("fast", "auto", quick),
        "fast, fp32 products": ("fast", "fp32", quick),
    }
    found: dict[str, list[float]] = {name: [] for name in kinds}
    losses: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for name, (implementation, products, environment) in kinds.items():
            command = [
                sys.executable,
                __file__,
                "--demo",
                str(options.demo),
                "--updates",
                str(options.updates),
            ]
            run = subprocess.run(
                [*command, "--child", implementation, products],
                env=environment,
                check=True,
                capture_output=True,
                text=True,
            )
            told = json.loads(run.stdout.splitlines()[-1])
            found[name].append(told["speed"])
            losses[name] = told["losses"]
            print(name, told["speed"], file=sys.stderr, flush=True)
    report(
        found, {n: dict(enumerate(values, 1)) for n, values in losses.items()}, options, "processor second"
    )


def throughput(records: list[dict[str, float]], skip: int) -> float:
    """Mean target tokens a second over the log lines after the first updates."""
    values = [r["tokens_per_second"] for r in records if r["update"] > skip and r["tokens_per_second"]]
    return len(values) / sum(1 / value for value in values)


def main() -> None:
    parser = common.arguments(__doc__, demo=True, threads=2)
    parser.add_argument("--updates", type=int, default=120)
    parser.add_argument("--busy", action="store_true", help="processor time, one thread")
    parser.add_argument("--child", nargs=2, help="used by this program itself")
    options = parser.parse_args()
    common.demo_files(options.demo, "binarized", "training/baseline/model.json")
    if options.child:
        child(options)
        return
    if options.busy:
        busy(options)
        return
    updates = options.updates
    settings = ADAM | {"max_updates": updates, "warmup_updates": min(500, updates // 2)}
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
    report(found, losses, options, "second")


def report(
    found: dict[str, list[float]], losses: dict[str, dict[int, float]], options: Any, unit: str
) -> None:
    """Write the result: speeds by way and round, losses by way and update."""
    rows: list[common.Row] = []
    details: dict[str, Any] = {"updates": options.updates, f"target tokens a {unit}": found}
    for name in ("fast", "fast, fp32 products"):
        speed = common.ratio(found[name], found["stock"])
        gap = max(abs(losses[name][u] / losses["stock"][u] - 1) for u in losses["stock"] if u in losses[name])
        details[name] = {"speed": speed, "largest relative difference of a logged loss": gap}
        label = "products: auto" if name == "fast" else "products: fp32"
        rows += [
            common.Row(
                f"training, target tokens a {unit} / stock fairseq-train, {label}",
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
    common.write_result("training_throughput", rows, details, threads=1 if options.busy else options.threads)


if __name__ == "__main__":
    main()
