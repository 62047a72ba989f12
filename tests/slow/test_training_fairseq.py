"""Training with fairseq itself, on a corpus of seconds."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neuron_specialization.checkpoints.checkpoint import load_checkpoint, write_model
from neuron_specialization.checkpoints.exporting import fairseq_state
from neuron_specialization.config import Recipe
from neuron_specialization.errors import TrainingError
from neuron_specialization.storage.layer_masks import write_masks
from neuron_specialization.storage.safe_loading import read_state
from neuron_specialization.training.arguments import PLUGIN, Resources
from neuron_specialization.training.devices import PRETEND
from neuron_specialization.training.train import train
from tests.slow.tiny_corpus import DIRECTIONS, LANGUAGES, tiny_recipe, write_data_bin

pytestmark = pytest.mark.slow

PRECISE = (sys.executable, str(Path(__file__).with_name("precise_fairseq_train.py")))


@pytest.fixture(scope="module")
def data_bin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data_bin(tmp_path_factory.mktemp("tiny") / "data-bin")


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, generator = tmp_path_factory.mktemp("tiny") / "masks", np.random.default_rng(2)
    for direction in DIRECTIONS:
        layers = {
            name: generator.random(32) < 0.5
            for name in ("encoder.layers.0", "encoder.layers.1", "decoder.layers.0")
        }
        write_masks(folder / f"{direction}.safetensors", layers, {"direction": direction})
    return folder


@pytest.fixture(scope="module")
def baseline(data_bin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained baseline's model.pt."""
    output = tmp_path_factory.mktemp("tiny") / "baseline"
    train(tiny_recipe(), data_bin, output, stream=io.StringIO())
    return output / "model.pt"


def metrics(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def losses(output: Path, kind: str) -> dict[int, float]:
    return {record["update"]: record["loss"] for record in metrics(output) if record["kind"] == kind}


def start(recipe: Recipe, data_bin: Path, output: Path, *extra: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "neuron_specialization", "train", "--recipe", recipe.model_dump_json()),
            *("--data-bin", str(data_bin), "--output", str(output), *extra),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_killed(recipe: Recipe, data_bin: Path, output: Path, *extra: str) -> None:
    """Run to the first checkpoint after update 10, and kill the wrapper; the trainer goes with it."""
    process = start(recipe, data_bin, output, *extra)
    deadline = time.monotonic() + 180
    while not any((output / "checkpoints").glob("*/checkpoint_*_20.pt")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("kind", ["fast", "stock", "masked", "muon"])
def test_a_killed_run_ends_as_an_uninterrupted_one(
    kind: str, data_bin: Path, baseline: Path, masks: Path, tmp_path: Path
) -> None:
    """To the last bit: the same model.pt, the same losses, though dropout and sampling are random."""
    settings: dict[str, Any] = {"dropout": 0.2, "max_updates": 45}
    if kind in ("stock", "muon"):
        settings |= {"implementation": "stock"} if kind == "stock" else {"optimizer": "muon", "lr": 1e-3}
    recipe = tiny_recipe(**settings)
    inputs: dict[str, Path] = {"init": baseline, "masks": masks} if kind in ("masked", "muon") else {}
    whole = train(recipe, data_bin, tmp_path / "whole", stream=io.StringIO(), **inputs)
    flags = [text for name, path in inputs.items() for text in (f"--{name}", str(path))]
    run_killed(recipe, data_bin, tmp_path / "killed", *flags)
    text = io.StringIO()
    resumed = train(recipe, data_bin, tmp_path / "killed", stream=text, **inputs)
    assert "resuming at update" in text.getvalue()
    assert losses(tmp_path / "killed", "valid") == losses(tmp_path / "whole", "valid")
    assert losses(tmp_path / "killed", "train") == losses(tmp_path / "whole", "train")
    assert resumed["model_sha256"] == whole["model_sha256"]


@pytest.mark.parametrize("embeddings", ["shared", "decoder-tied"])
def test_fast_losses_are_those_of_stock_fairseq(embeddings: str, data_bin: Path, tmp_path: Path) -> None:
    """50 updates, dropout 0, same data, arguments and seed: every loss equal to 1e-4 relative."""
    settings: dict[str, Any] = {"max_updates": 50, "dropout": 0.0, "save_every": 25, "validate_every": 25}
    for name in ("stock", "fast"):
        recipe = tiny_recipe(implementation=name, model={"embeddings": embeddings}, **settings)
        train(recipe, data_bin, tmp_path / name, trainer=PRECISE, stream=io.StringIO())
    stock, fast = losses(tmp_path / "stock", "train"), losses(tmp_path / "fast", "train")
    assert list(stock) == list(range(1, 51))
    assert max(abs(fast[update] / stock[update] - 1) for update in stock) < 1e-4
    assert stock[50] < stock[1] - 0.5  # and it learns
    for update, loss in losses(tmp_path / "stock", "valid").items():
        assert losses(tmp_path / "fast", "valid")[update] == pytest.approx(loss, rel=1e-4)


def test_the_stock_run_is_fairseqs_own_code(data_bin: Path, tmp_path: Path) -> None:
    """What the comparison above compares with: no class of ours takes part."""
    train(
        tiny_recipe(implementation="stock", max_updates=1, warmup_updates=1),
        data_bin,
        tmp_path,
        stream=io.StringIO(),
    )
    (log,) = tmp_path.glob("checkpoints/*/train.log")
    text = log.read_text()
    for line in (
        "task: TranslationMultiSimpleEpochTask",
        "model: TransformerModel",
        "criterion: LabelSmoothed",
    ):
        assert line in text


def test_shards_are_trained_in_turn_and_resumed(tmp_path: Path) -> None:
    """An epoch a shard, and a kill within the second shard changes nothing."""
    for index in range(2):
        write_data_bin(tmp_path / "data" / f"shard{index}", segments=120, seed=index)
    recipe = tiny_recipe(shards=2, max_updates=45)
    whole = train(recipe, tmp_path / "data", tmp_path / "whole", stream=io.StringIO())
    (log,) = (tmp_path / "whole").glob("checkpoints/*/train.log")
    text = log.read_text()
    for index in range(2):
        assert f"/shard{index} train en-de" in text
    run_killed(recipe, tmp_path / "data", tmp_path / "killed")
    resumed = train(recipe, tmp_path / "data", tmp_path / "killed", stream=io.StringIO())
    assert resumed["model_sha256"] == whole["model_sha256"]


@pytest.mark.parametrize(("optimizer", "tolerance"), [("adam", 1e-5), ("muon", 1e-4)])
def test_two_processes_make_the_same_updates_as_one(
    optimizer: str, tolerance: float, data_bin: Path, baseline: Path, masks: Path, tmp_path: Path
) -> None:
    """The global batch is kept: 2 processes with 1 micro-batch each, as 1 process with 2."""
    recipe = tiny_recipe(
        micro_batches=2, max_updates=12, save_every=6, validate_every=12, dropout=0.0, optimizer=optimizer
    )
    for threads, name in ((1, "one"), (2, "two")):
        train(
            recipe,
            data_bin,
            tmp_path / name,
            init=baseline,
            masks=masks,
            resources=Resources(threads=threads),
            trainer=PRECISE,
            stream=io.StringIO(),
        )
    assert list((tmp_path / "two").glob("checkpoints/*/train.1.log"))  # of the other process
    assert not list((tmp_path / "one").glob("checkpoints/*/train.1.log"))
    one, two = losses(tmp_path / "one", "train"), losses(tmp_path / "two", "train")
    assert list(two) == list(one) == list(range(1, 13))
    assert max(abs(two[update] / one[update] - 1) for update in one) < tolerance
    valid = [losses(tmp_path / name, "valid")[12] for name in ("one", "two")]
    assert valid[0] == pytest.approx(valid[1], rel=1e-5)


@pytest.mark.parametrize(
    ("implementation", "first", "then"), [("fast", 1, 2), ("fast", 2, 1), ("stock", 4, 2)]
)
def test_a_run_goes_on_with_another_number_of_processes(
    implementation: str,
    first: int,
    then: int,
    data_bin: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the midst of an epoch, which it ends on the text that an uninterrupted run ends it on."""
    recipe = tiny_recipe(
        **{"micro_batches": 4, "max_updates": 30, "save_every": 5, "validate_every": 30, "max_tokens": 128},
        **{"dropout": 0.0, "implementation": implementation},
    )

    def run(name: str, processes: int) -> str:
        text = io.StringIO()
        train(
            recipe,
            data_bin,
            tmp_path / name,
            resources=Resources(threads=processes),
            trainer=PRECISE,
            stream=text,
        )
        return text.getvalue()

    run("whole", 1)
    monkeypatch.setenv("PRECISE_END_AT", "15")
    with pytest.raises(TrainingError, match="resumes at update 15"):
        run("stopped", first)
    (last,) = tmp_path.glob("stopped/checkpoints/*/checkpoint_last.pt")
    place = read_state(last)["extra_state"]["train_iterator"]
    assert place["iterations_in_epoch"] > 0
    monkeypatch.delenv("PRECISE_END_AT")
    text = run("stopped", then)
    expected, found = (losses(tmp_path / name, "train") for name in ("whole", "stopped"))
    assert list(found) == list(expected) == list(range(1, 31))
    assert found == pytest.approx(expected, rel=1e-5)
    assert losses(tmp_path / "stopped", "valid")[30] == pytest.approx(
        losses(tmp_path / "whole", "valid")[30], rel=1e-5
    )
    assert f"{then} will: they go on after batch {first * place['iterations_in_epoch']}" in text


@pytest.mark.parametrize("kind", ["masked", "stock", "muon"])
def test_bfloat16_trains_by_one_process_and_by_two(
    kind: str, data_bin: Path, baseline: Path, masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The losses are about those of float32, and the processes' models are one and the same."""
    common = {"micro_batches": 2, "max_updates": 30, "save_every": 30, "validate_every": 30, "dropout": 0.0}
    settings = {"stock": {"implementation": "stock"}, "muon": {"optimizer": "muon"}}.get(kind, {})
    inputs = {"init": baseline, "masks": masks} if kind == "masked" else {}
    monkeypatch.setenv("PRECISE_PARAMETERS", str(tmp_path))
    for precision, threads in (("fp32", 1), ("bf16", 1), ("bf16", 2)):
        recipe = tiny_recipe(precision=precision, **common, **settings)
        output = tmp_path / f"{precision}-{threads}"
        train(
            recipe,
            data_bin,
            output,
            resources=Resources(threads=threads),
            trainer=PRECISE,
            stream=io.StringIO(),
            **inputs,
        )
    exact = losses(tmp_path / "fp32-1", "train")
    for name in ("bf16-1", "bf16-2"):
        found = losses(tmp_path / name, "train")
        assert found != exact
        assert found == pytest.approx(exact, rel=0.02)
        assert found[30] < found[1] - (0.05 if inputs else 0.3)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name, parameter in ranks[0].items():
        assert parameter.dtype == torch.bfloat16
        assert torch.equal(parameter, ranks[1][name])


@pytest.mark.parametrize("gpus", [0, 2])
def test_processes_meet_whatever_the_folder_is_called(
    gpus: int, data_bin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU, and as on two GPUs: the same commands, but for what computes."""
    monkeypatch.setenv(PRETEND, "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    facts = train(
        tiny_recipe(micro_batches=2, max_updates=4, warmup_updates=1),
        data_bin,
        tmp_path / "my ü #1 out?",
        resources=Resources(gpus=gpus, threads=2),
        stream=io.StringIO(),
    )
    assert facts["updates"] == 4
    (log,) = tmp_path.glob("*/checkpoints/*/train.log")
    assert "training on 2 devices" in log.read_text(encoding="utf-8")


def generate(model: Path, data_bin: Path, direction: str, *extra: str) -> list[str]:
    """The H and P lines of fairseq-generate."""
    source, target = direction.split("-")
    run = subprocess.run(
        [
            *(sys.executable, "-m", "fairseq_cli.generate", str(data_bin), "--path", str(model)),
            *("--langs", ",".join(LANGUAGES), "--lang-pairs", ",".join(DIRECTIONS)),
            *(
                "--source-lang",
                source,
                "--target-lang",
                target,
                "--encoder-langtok",
                "src",
                "--decoder-langtok",
            ),
            *("--beam", "3", "--max-len-b", "20", "--cpu", "--gen-subset", "test", *extra),
        ],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return [line for line in run.stdout.splitlines() if line[:2] in ("H-", "P-")]


def test_stock_fairseq_generates_from_a_published_model(data_bin: Path, baseline: Path) -> None:
    """A dense model.pt opens without anything of ours: torch's safe loading, fairseq's own classes."""
    lines = generate(baseline, data_bin, "en-de", "--task", "translation_multi_simple_epoch")
    assert len(lines) == 16  # 8 sentences


@pytest.mark.parametrize("batching", ["mixed", "single-direction"])
def test_a_specialised_model_generates_as_its_folded_self(
    batching: str, data_bin: Path, baseline: Path, masks: Path, tmp_path: Path
) -> None:
    """With --user-dir, and as the plain fairseq checkpoint with one direction's mask folded in: the same."""
    facts = train(
        tiny_recipe(batching=batching, max_updates=20),
        data_bin,
        tmp_path,
        init=baseline,
        masks=masks,
        stream=io.StringIO(),
    )
    assert set(facts["inputs"]) == {"data", "init", "masks"}
    checkpoint = load_checkpoint(tmp_path / "model.pt")
    assert list(checkpoint.masks) == DIRECTIONS
    direction = "de-en" if batching == "mixed" else "en-nl"
    user_dir = ("--user-dir", str(PLUGIN))
    specialised = generate(
        tmp_path / "model.pt", data_bin, direction, *user_dir, "--task", "neuron_specialization"
    )
    write_model(tmp_path / "dense.pt", fairseq_state(checkpoint, direction), plain=False)
    folded = generate(
        tmp_path / "dense.pt", data_bin, direction, *user_dir, "--task", "translation_multi_simple_epoch"
    )
    assert len(specialised) == len(folded) == 16
    for ours, theirs in zip(specialised, folded, strict=True):
        (name, *scores), (expected_name, *expected) = ours.split("\t"), theirs.split("\t")
        assert name == expected_name
        if name.startswith("H-"):  # score, text
            assert float(scores[0]) == pytest.approx(float(expected[0]), abs=1e-4)
            assert scores[1] == expected[1]
        else:  # a score a piece
            values = [float(value) for value in scores[0].split()]
            assert values == pytest.approx([float(value) for value in expected[0].split()], abs=1e-3)


def test_patience_is_counted_across_a_kill(data_bin: Path, tmp_path: Path) -> None:
    """Started anew, fairseq forgets how long it has waited; the plugin keeps that in the checkpoint."""
    recipe = tiny_recipe(lr=1e-12, dropout=0.0, patience=3, max_updates=200)
    run_killed(recipe, data_bin, tmp_path / "killed")
    train(recipe, data_bin, tmp_path / "killed", stream=io.StringIO())
    # validated at 10 (best), 20, 30, 40: the third time without a better loss
    assert max(losses(tmp_path / "killed", "valid")) == 40


@pytest.mark.parametrize(("save_every", "validate_every"), [(5, 20), (20, 5), (8, 20)])
def test_saving_does_not_validate(
    save_every: int, validate_every: int, data_bin: Path, tmp_path: Path
) -> None:
    """fairseq would validate at every save, and keep the best model only where it saves."""
    recipe = tiny_recipe(max_updates=50, save_every=save_every, validate_every=validate_every, lr=5e-3)
    facts = train(recipe, data_bin, tmp_path / "run", stream=io.StringIO())
    found = losses(tmp_path / "run", "valid")
    assert list(found) == [*range(validate_every, 50, validate_every), 50]
    assert facts["updates"] == min(found, key=lambda update: found[update])


def test_patience_does_not_depend_on_saves(data_bin: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"lr": 1e-12, "dropout": 0.0, "patience": 3, "max_updates": 200}
    recipe = tiny_recipe(save_every=4, validate_every=10, **settings)
    run_killed(recipe, data_bin, tmp_path / "killed")
    train(recipe, data_bin, tmp_path / "killed", stream=io.StringIO())
    assert max(losses(tmp_path / "killed", "valid")) == 40


@pytest.mark.parametrize("implementation", ["stock", "fast"])
def test_a_real_divergence_is_reported(implementation: str, data_bin: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(lr=1e30, warmup_updates=1, implementation=implementation)
    with pytest.raises(TrainingError, match="diverged after update") as caught:
        train(recipe, data_bin, tmp_path, stream=io.StringIO())
    assert "learning rate is too high" in str(caught.value)
    if implementation == "fast":  # the plugin says whose batch it was
        assert any(direction in caught.value.what for direction in DIRECTIONS)
    assert not (tmp_path / "model.pt").exists()
