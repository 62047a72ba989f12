"""What trainings cost, the loss of each direction, and energy: only what was measured."""

from __future__ import annotations

import csv
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuron_specialization.cli import main
from neuron_specialization.errors import ConfigError, TrainingError
from neuron_specialization.evaluation.costs import RunOf, cost_of, notes, parse_runs
from neuron_specialization.evaluation.perplexity import interference, read_losses
from neuron_specialization.evaluation.tables import DirectionGroup
from neuron_specialization.storage.layer_masks import write_masks
from neuron_specialization.training.energy import EnergyMeter, metered, zones

GROUPS = [
    DirectionGroup("en-de", "en→X", "all", "Germanic"),
    DirectionGroup("de-en", "X→en", "all", "Germanic"),
]
RUNS = [
    {"run": "baseline"},
    {"run": "continued", "init": "baseline"},
    {"run": "ns", "init": "baseline", "masks": "k95"},
    {"run": "continued@223", "init": "baseline@223"},
    {"run": "ns@223", "init": "baseline@223", "masks": "k95@223"},
]
# run → losses (en-de, de-en) at updates 10 and 20; the model of update 20 is published
LOSSES = {
    "baseline": ((6.0, 6.5), (5.0, 5.5)),
    "continued": ((4.5, 5.0), (4.0, 5.0)),
    "ns": ((4.0, 4.5), (3.5, 4.25)),
    "continued@223": ((4.5, 5.0), (4.5, 5.0)),
    "ns@223": ((4.0, 4.5), (4.25, 4.5)),
}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Trainings of 20 updates, with 100 tokens in each of the first ten and 120 in the others."""
    for run, losses in LOSSES.items():
        folder = tmp_path / "training" / run
        folder.mkdir(parents=True)
        facts = {"parameters": 1000, "updates": 20, "directions": ["en-de", "de-en"], "fingerprint": "f"}
        facts |= {"model_sha256": run, "inputs": {} if run == "baseline" else {"init": "baseline"}}
        (folder / "model.json").write_text(json.dumps(facts))
        records: list[dict[str, Any]] = []
        for update, tokens, (first, second) in ((10, 100, losses[0]), (20, 120, losses[1])):
            at = {"update": update, "loss": 5.0, "seconds": float(update)}
            records.append({"kind": "train", **at, "tokens_per_update": tokens})
            records.append({"kind": "valid", **at, "nll_by_direction": {"en-de": first, "de-en": second}})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for selection in ("k95", "k95@223"):
        for direction, count in (("en-de", 4), ("de-en", 8)):
            layers = {"encoder.layers.0": np.arange(16) < count, "decoder.layers.0": np.arange(16) < 16}
            path = tmp_path / f"masks/{selection}/{direction}.safetensors"
            write_masks(path, layers, {"direction": direction}, packed=True)
    (tmp_path / "benchmarks").mkdir()
    header = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
    (tmp_path / "benchmarks/ns.tsv").write_text(header + "25.5\t0:00:25\t640.25\t1\t1\t1\t-\t-\t90\t24.0\n")
    return tmp_path


def cost(results: Path, run: dict[str, str]) -> Any:
    folders = [results / name for name in ("training", "masks", "benchmarks")]
    return cost_of(RunOf(**run), *folders, seed=222)


def test_a_run_with_everything(results: Path) -> None:
    found = cost(results, RUNS[2])
    assert (found.system, found.seed, found.init) == ("ns", 222, "baseline")
    assert (found.updates, found.tokens, found.tokens_per_update) == (20, 2200, 110.0)
    assert (found.training_seconds, found.tokens_per_second) == (20.0, 110.0)
    assert (found.job_seconds, found.cpu_seconds, found.peak_memory_mib) == (25.5, 24.0, 640.25)
    files = [results / f"masks/k95/{name}.safetensors" for name in ("en-de", "de-en")]
    assert found.mask_bytes == sum(path.stat().st_size for path in files)
    assert found.mask_bits == 2 * 2 * 16 and found.kept == pytest.approx((0.25 + 1 + 0.5 + 1) / 4)


def test_what_is_not_known_is_empty(results: Path) -> None:
    found = cost(results, RUNS[4])
    assert (found.system, found.seed) == ("ns", 223)
    assert found.job_seconds is None and found.peak_memory_mib is None and found.energy_joules is None
    path = results / "training/baseline/metrics.jsonl"
    path.write_text('{"kind": "train", "update": 20, "loss": 5.0}\n')
    found = cost(results, RUNS[0])
    assert (found.updates, found.tokens, found.tokens_per_second) == (20, None, None)
    assert (found.mask_bytes, found.mask_bits, found.kept) == (0, 0, 1.0)


def test_updates_without_a_record_are_taken_to_be_like_the_others(results: Path) -> None:
    # the first record of tokens is of update 10 on: what came before is taken to be like the rest
    path = results / "training/ns/metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    del lines[0]["tokens_per_update"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert cost(results, RUNS[2]).tokens == 20 * 120


def test_costs_command(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [("--training", "training"), ("--masks", "masks"), ("--benchmarks", "benchmarks")]
    flags = [part for flag, name in folders for part in (flag, str(results / name))]
    main(["costs", *flags, "--runs", json.dumps(RUNS), "--seed", "222", "--output", str(results / "tables")])
    rows = list(csv.DictReader((results / "tables/costs.csv").open(encoding="utf-8")))
    assert [(row["system"], row["seed"], row["from"]) for row in rows][3:] == [
        ("continued", "223", "baseline@223"),
        ("ns", "223", "baseline@223"),
    ]
    assert (rows[2]["tokens"], rows[2]["peak_memory_mib"], rows[0]["energy_joules"]) == ("2200", "640.2", "")
    printed = capsys.readouterr().out
    assert "| ns | 2 | 1,000 | 64 |" in printed and "made 20 updates each" in printed
    assert printed == (results / "tables/costs.md").read_text(encoding="utf-8")


def test_unequal_training_is_said(results: Path) -> None:
    path = results / "training/ns/metrics.jsonl"
    path.write_text(path.read_text().replace('"update": 20', '"update": 30'))
    found = [cost(results, run) for run in RUNS[:3]]
    text = " ".join(notes(found))
    # 20 updates of 110 tokens; 30 of (10 · 100 + 20 · 120) / 30
    assert "**20 to 30**" in text and "54.5%" in text


def test_bad_lists_of_runs_and_unfinished_runs_are_refused(results: Path) -> None:
    with pytest.raises(ConfigError, match=r"runs\.0\.runn: unknown key"):
        parse_runs('[{"runn": "x"}]')
    with pytest.raises(TrainingError, match="not trained yet"):
        cost(results, {"run": "absent"})
    with pytest.raises(TrainingError, match="not trained yet"):
        read_losses(results / "training", ["absent"])


# ---- losses by direction ----


def test_interference_is_the_gap_at_the_published_updates(results: Path) -> None:
    runs = read_losses(results / "training", list(LOSSES))
    gaps = {(gap.system, gap.control, gap.direction, gap.group): gap for gap in interference(runs, GROUPS)}
    one = gaps["ns", "continued", "en-de", "en→X"]
    # 4.0 - 3.5 and 4.5 - 4.25, seed by seed
    assert (one.gap, one.seeds) == (pytest.approx(0.375), 2) and one.sd == pytest.approx(0.1767767)
    whole = gaps["ns", "continued", "all", "all"]
    # (0.5 + 0.75) / 2 and (0.25 + 0.5) / 2
    assert whole.gap == pytest.approx(0.5) and whole.sd == pytest.approx(0.1767767)
    # both go on from the baseline: what they gain on it is no interference
    assert {(system, control) for system, control, _, _ in gaps} == {("ns", "continued")}


def test_only_equal_training_has_a_gap(results: Path) -> None:
    shutil.copytree(results / "training/ns", results / "training/ns_long")
    for name, key in (("metrics.jsonl", "update"), ("model.json", "updates")):
        path = results / "training/ns_long" / name
        path.write_text(path.read_text().replace(f'"{key}": 20', f'"{key}": 40'))
    shutil.copytree(results / "training/ns_long", results / "training/continued_long")
    runs = read_losses(results / "training", [*LOSSES, "ns_long", "continued_long"])
    assert not [gap for gap in interference(runs, GROUPS) if gap.system == "ns_long"]
    pairs = [("ns_long", "continued_long"), ("ns", "ns_long"), ("ns", "absent")]
    assert {(gap.system, gap.control) for gap in interference(runs, GROUPS, pairs)} == {pairs[0]}


def test_no_gap_without_all_losses(results: Path) -> None:
    path = results / "training/ns@223/metrics.jsonl"
    path.write_text(path.read_text().replace(', "de-en": 4.5}', "}"))
    runs = read_losses(results / "training", list(LOSSES))
    gaps = interference(runs, GROUPS, [("ns", "continued")])
    found = {(gap.direction, gap.group) for gap in gaps if gap.system == "ns"}
    # de-en under one seed has no loss: no gap of it, nor of any set it is in
    assert found == {("en-de", "en→X"), ("all", "en→X")}


def test_perplexity_command(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    groups = json.dumps([vars(row) for row in GROUPS])
    flags = ["--training", str(results / "training"), "--runs", ",".join(LOSSES), "--groups", groups]
    main(["perplexity", *flags, "--seed", "222", "--output", str(results)])
    rows = list(csv.DictReader((results / "perplexity.csv").open(encoding="utf-8")))
    assert len(rows) == 5 * 2 * 2
    row = rows[9]
    assert [row[key] for key in ("system", "seed", "direction", "update")] == ["ns", "222", "en-de", "20"]
    assert (row["nll"], row["perplexity"], row["published"]) == ("3.5000", "11.314", "1")
    assert [row["published"] for row in rows[:4]] == ["0", "1", "0", "1"]
    assert [(row["from"], row["start"]) for row in (rows[0], rows[9])] == [("", "0"), ("baseline", "20")]
    gaps = list(csv.DictReader((results / "interference.csv").open(encoding="utf-8")))
    whole = [
        row for row in gaps if (row["system"], row["control"], row["group"]) == ("ns", "continued", "all")
    ]
    assert (whole[0]["gap"], whole[0]["gap_sd"], whole[0]["seeds"]) == ("0.5000", "0.1768", "2")
    assert "ns − continued, all: -0.5000 ± 0.1768 bits a token" in capsys.readouterr().out


# ---- energy ----


def zone(root: Path, name: str, title: str, microjoules: int) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{title}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text("1000000000\n")
    return folder


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    root = tmp_path / "powercap"
    zone(root, "intel-rapl:0", "package-0", 10_000_000)
    zone(root, "intel-rapl:0:0", "core", 8_000_000)  # part of the package
    zone(root, "intel-rapl:0:1", "dram", 1_000_000)
    zone(root, "intel-rapl-mmio:0", "package-0", 10_000_000)  # the same once more
    return root


def test_counters_do_not_overlap(powercap: Path) -> None:
    assert [path.name for path in zones(powercap)] == ["intel-rapl:0", "intel-rapl:0:1"]


def test_energy_is_added_up_over_a_counter_that_runs_over(powercap: Path) -> None:
    package, memory = powercap / "intel-rapl:0/energy_uj", powercap / "intel-rapl:0:1/energy_uj"
    with EnergyMeter(powercap, interval=0.01) as meter:
        package.write_text("990000000")
        time.sleep(0.2)
        package.write_text("5000000")
        memory.write_text("3000000")
    # 980 J to 990, 15 J over the end at 1,000 to 5; and 2 J of memory
    assert meter.joules == pytest.approx(980 + 15 + 2)


def test_no_counter_no_number(tmp_path: Path) -> None:
    with EnergyMeter(tmp_path) as meter:
        pass
    assert meter.joules is None
    with metered(tmp_path / "energy.json", resumed=False, root=tmp_path):
        pass
    assert not (tmp_path / "energy.json").exists()


def test_energy_of_a_training_in_parts(powercap: Path, tmp_path: Path) -> None:
    path, counter = tmp_path / "energy.json", powercap / "intel-rapl:0/energy_uj"

    def part(microjoules: int, resumed: bool) -> None:
        with metered(path, resumed=resumed, root=powercap):
            counter.write_text(str(int(counter.read_text()) + microjoules))

    part(5_000_000, resumed=False)
    assert json.loads(path.read_text()) == {"joules": 5.0}
    part(2_000_000, resumed=True)
    assert json.loads(path.read_text()) == {"joules": 7.0}
    # a new start counts from 0
    part(3_000_000, resumed=False)
    assert json.loads(path.read_text()) == {"joules": 3.0}
    # a part that was killed is not known: nothing is said of the whole
    with pytest.raises(RuntimeError), metered(path, resumed=True, root=powercap):
        raise RuntimeError
    part(1_000_000, resumed=True)
    assert not path.exists()
