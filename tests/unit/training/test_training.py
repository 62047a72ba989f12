"""Training against a stand-in for the trainer: what is started, resumed, refused, reported and published.

Faults are real ones: processes are killed with SIGKILL, files are cut. The trainer alone is not
real (tests/fakes/fake_fairseq_train.py); tests/slow does the same with fairseq.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from neuron_specialization.checkpoints.checkpoint import load_checkpoint
from neuron_specialization.cli import main
from neuron_specialization.config import Model, Recipe, Training
from neuron_specialization.errors import TrainingError
from neuron_specialization.storage import locks
from neuron_specialization.storage.files import sha256_of
from neuron_specialization.storage.layer_masks import write_masks
from neuron_specialization.storage.safe_loading import read_state
from neuron_specialization.training import runs as training_runs
from neuron_specialization.training.progress import MetricsFile, Record
from neuron_specialization.training.resume import ResumePoint, fit_to_processes, newest_saved, prepare_resume
from tests.fakes import checkpoints as fake

FAKE = Path(fake.__file__).with_name("fake_fairseq_train.py")
MAX_UPDATES, SAVE_EVERY = 60, 10


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake.write_training_checkpoints(
        tmp_path_factory.mktemp("prepared"), range(SAVE_EVERY, MAX_UPDATES + 1, SAVE_EVERY)
    )


@pytest.fixture
def data_bin(tmp_path: Path) -> Path:
    """The names of a data-bin; the fake trainer opens none of them."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "manifest.json").write_text('{"files": {"train.de-en.de.bin": "0"}}')
    for code in fake.LANGUAGES:
        (folder / f"dict.{code}.txt").touch()
        for split in ("train", "valid"):
            (folder / f"{split}.de-en.{code}.idx").touch()
    return folder


def recipe(**training: Any) -> Recipe:
    settings = {
        "max_updates": MAX_UPDATES,
        "save_every": SAVE_EVERY,
        "validate_every": SAVE_EVERY,
    }
    return Recipe(
        system="baseline",
        languages=fake.LANGUAGES,
        directions=fake.DIRECTIONS,
        model=Model(encoder_layers=1, decoder_layers=1, d_model=8, d_ff=16, heads=2),
        training=Training(**{**settings, **training}),
        seed=1,
    )


class Trainings:
    """Runs the ``train`` command: in a process of its own (``start``), or in this one, which is quicker."""

    def __init__(self, tmp_path: Path, data_bin: Path, prepared: Path) -> None:
        self.output, self.data_bin = tmp_path / "training" / "baseline", data_bin
        self.record = tmp_path / "record.jsonl"
        self.environment = {
            **{key: text for key, text in os.environ.items() if not key.startswith("FAKE_")},
            "FAKE_CHECKPOINTS": str(prepared),
            "FAKE_RECORD": str(self.record),
        }

    def arguments(self, extra: tuple[str, ...], given: Recipe | None) -> list[str]:
        return [
            *("train", "--recipe", (given or recipe()).model_dump_json(), "--data-bin", str(self.data_bin)),
            *("--output", str(self.output), "--trainer", shlex.join([sys.executable, str(FAKE)]), *extra),
        ]

    def start(self, *extra: str, given: Recipe | None = None, **environment: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "neuron_specialization", *self.arguments(extra, given)],
            env={**self.environment, **{key: str(value) for key, value in environment.items()}},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *extra: str, given: Recipe | None = None, **environment: object) -> tuple[int, str]:
        text = io.StringIO()
        changes = {**self.environment, **{key: str(value) for key, value in environment.items()}}
        with (
            mock.patch.dict(os.environ, changes),
            contextlib.redirect_stdout(text),
            contextlib.redirect_stderr(text),
        ):
            try:
                main(self.arguments(extra, given))
            except SystemExit as end:
                return int(end.code or 0), text.getvalue()
        return 0, text.getvalue()

    def records(self, key: str) -> list[Any]:
        lines = [json.loads(line) for line in self.record.read_text().splitlines()]
        return [line[key] for line in lines if key in line]

    @property
    def folder(self) -> Path:
        (found,) = (path for path in (self.output / "checkpoints").iterdir() if path.is_dir())
        return found

    def updates(self, kind: str) -> list[int]:
        lines = [json.loads(line) for line in (self.output / "metrics.jsonl").read_text().splitlines()]
        return [line["update"] for line in lines if line["kind"] == kind]


@pytest.fixture
def trainings(tmp_path: Path, data_bin: Path, prepared: Path) -> Trainings:
    return Trainings(tmp_path, data_bin, prepared)


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


# ---- the plain run ----


def test_a_run_from_start_to_end(trainings: Trainings, prepared: Path) -> None:
    code, text = trainings.run("--threads", "2")
    assert code == 0, text
    facts = json.loads((trainings.output / "model.json").read_text())
    assert facts["updates"] == MAX_UPDATES
    assert facts["valid_loss"] == pytest.approx(9.8)
    assert facts["model_sha256"] == sha256_of(trainings.output / "model.pt")
    assert facts["recipe"] == recipe().model_dump(mode="json")
    assert (facts["languages"], facts["directions"]) == (fake.LANGUAGES, fake.DIRECTIONS)
    assert trainings.updates("valid") == [10, 20, 30, 40, 50, 60]
    assert trainings.updates("train") == list(range(1, 61))

    # plain: loads where nothing is allowed, and holds the best checkpoint's numbers
    plain = torch.load(trainings.output / "model.pt", weights_only=True)
    best = fake.training_state(MAX_UPDATES)["model"]
    assert all(torch.equal(plain["model"][name], tensor) for name, tensor in best.items())
    assert "/somewhere/else" not in str({key: value for key, value in plain.items() if key != "model"})

    # the trainer's whole log is kept; run.json says what the folder is
    assert "done training" in (trainings.folder / "train.log").read_text()
    run = json.loads((trainings.folder / "run.json").read_text())
    assert run["fingerprint"] == facts["fingerprint"] == trainings.folder.name

    (environment,) = trainings.records("environment")
    assert environment["OMP_NUM_THREADS"] == "2"
    (arguments,) = trainings.records("arguments")
    assert arguments[arguments.index("--save-dir") + 1] == str(trainings.folder)
    assert "update 60: validation loss 9.800" in text
    assert "\r" not in text  # nobody's terminal


def test_a_finished_run_is_published_again_without_training(trainings: Trainings) -> None:
    assert trainings.run()[0] == 0
    first = sha256_of(trainings.output / "model.pt")
    for name in ("model.pt", "model.json", "metrics.jsonl"):
        (trainings.output / name).unlink()
    assert trainings.run()[0] == 0
    assert sha256_of(trainings.output / "model.pt") == first
    assert len(trainings.records("arguments")) == 1


def test_the_best_checkpoint_is_published_even_if_it_was_damaged(trainings: Trainings) -> None:
    """Another file of the same update takes its place; a checkpoint of another update never does."""
    assert trainings.run()[0] == 0
    first = sha256_of(trainings.output / "model.pt")
    os.truncate(trainings.folder / "checkpoint_best.pt", 500)
    (trainings.output / "model.json").unlink()
    code, text = trainings.run()
    assert code == 0, text
    assert sha256_of(trainings.output / "model.pt") == first
    for path in trainings.folder.glob("checkpoint_*.pt"):
        os.truncate(path, 500)
    code, text = trainings.run()
    assert code == 1
    assert "best checkpoint cannot be read" in text
    assert sha256_of(trainings.output / "model.pt") == first


def test_a_trainer_that_fails_after_the_last_checkpoint_has_trained(trainings: Trainings) -> None:
    """Its processes do not leave at one moment; the last may find the connection closed."""
    code, text = trainings.run(FAKE_EXIT_AFTERWARDS=1)
    assert code == 0, text
    assert json.loads((trainings.output / "model.json").read_text())["updates"] == MAX_UPDATES
    assert "Connection closed by peer" in (trainings.folder / "train.log").read_text()


def test_a_trainer_that_fails_before_all_updates_has_failed(trainings: Trainings) -> None:
    code, text = trainings.run(FAKE_END_AT=40, FAKE_EXIT_AFTERWARDS=1)
    assert code == 1 and "ended with exit status 1 after update 40" in text
    assert not (trainings.output / "model.json").exists()


def test_patience_ends_a_run(trainings: Trainings) -> None:
    code, text = trainings.run(given=recipe(patience=2), FAKE_STOP_EARLY_AT=40)
    assert code == 0, text
    assert json.loads((trainings.output / "model.json").read_text())["updates"] == 40
    assert trainings.run(given=recipe(patience=2))[0] == 0
    assert len(trainings.records("arguments")) == 1


def test_masks_and_init_reach_the_trainer_and_the_fingerprint(trainings: Trainings, tmp_path: Path) -> None:
    assert trainings.run()[0] == 0
    masks, init = tmp_path / "masks", tmp_path / "init.pt"
    shutil.copy(trainings.output / "model.pt", init)
    import numpy as np

    keep = {f"{side}.layers.0": np.arange(16) % 2 == 0 for side in ("encoder", "decoder")}
    write_masks(masks / "en-de.safetensors", keep, {"direction": "en-de"})
    code, text = trainings.run("--init", str(init), "--masks", str(masks))
    assert code == 1
    assert "no mask for de-en" in text
    write_masks(masks / "de-en.safetensors", keep, {"direction": "de-en"})
    code, text = trainings.run("--init", str(init), "--masks", str(masks))
    assert code == 0, text
    arguments = trainings.records("arguments")[-1]
    assert arguments[arguments.index("--masks") + 1] == str(masks)
    assert arguments[arguments.index("--finetune-from-model") + 1] == str(init)
    facts = json.loads((trainings.output / "model.json").read_text())
    assert set(facts["inputs"]) == {"data", "init", "masks"}


# ---- kills ----


@pytest.mark.parametrize("victim", ["trainer", "wrapper", "both"])
def test_resumes_after_kill_9(trainings: Trainings, tmp_path: Path, victim: str) -> None:
    once = {"FAKE_DIE_AT_UPDATE": 35, "FAKE_DIE_ONCE": tmp_path / "once"}
    if victim == "trainer":
        code, text = trainings.run(**once)
        assert code == 1
        assert "signal SIGKILL after update 34" in text
        assert "resumes at update 30" in text
    else:
        process = trainings.start(FAKE_KILL_PARENT=1, **once)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        (pid,) = trainings.records("pid")
        if victim == "both" and alive(pid):
            os.kill(pid, signal.SIGKILL)
        # the kernel ends the trainer when its parent is gone
        wait_for(lambda: not alive(pid), seconds=15)
    assert not (trainings.output / "model.pt").exists()
    code, text = trainings.run(**once)
    assert code == 0, text
    assert "resuming at update 30" in text
    assert trainings.records("resumed_at") == [0, 30]
    assert trainings.updates("train") == list(range(1, 61))
    assert trainings.updates("valid") == [10, 20, 30, 40, 50, 60]
    assert load_checkpoint(trainings.output / "model.pt").updates == MAX_UPDATES


def test_the_result_after_kills_is_that_of_an_uninterrupted_run(trainings: Trainings, tmp_path: Path) -> None:
    assert trainings.run()[0] == 0
    expected = sha256_of(trainings.output / "model.pt")
    shutil.rmtree(trainings.output)
    for number, update in enumerate((5, 17, 44)):
        assert trainings.run(FAKE_DIE_AT_UPDATE=update, FAKE_DIE_ONCE=tmp_path / str(number))[0] == 1
    assert trainings.run()[0] == 0
    assert trainings.records("resumed_at") == [0, 0, 0, 10, 40]
    assert sha256_of(trainings.output / "model.pt") == expected


def test_killed_between_the_last_save_and_publishing(trainings: Trainings) -> None:
    """fairseq would make one update too many if it were started on a run that has all its updates."""
    assert trainings.run()[0] == 0
    expected = sha256_of(trainings.output / "model.pt")
    for name in ("model.pt", "model.json"):
        (trainings.output / name).unlink()
    (trainings.folder / "finished.json").unlink()
    assert trainings.run()[0] == 0
    assert len(trainings.records("arguments")) == 1
    assert sha256_of(trainings.output / "model.pt") == expected


def test_nothing_runs_twice(trainings: Trainings) -> None:
    process = trainings.start(FAKE_SECONDS_PER_UPDATE=0.5)
    wait_for(lambda: trainings.record.exists() and "pid" in trainings.record.read_text())
    started = time.monotonic()
    code, text = trainings.run()
    assert code == 1
    assert f"trained already by process {process.pid} on" in text
    assert time.monotonic() - started < 20
    # another recipe of the same system waits its turn as well
    code, text = trainings.run(given=recipe(lr=1e-4))
    assert code == 1
    assert "trained already" in text
    process.terminate()
    process.communicate(timeout=60)
    assert len(trainings.records("arguments")) == 1


def test_a_trainer_that_outlives_its_wrapper_keeps_others_out(
    trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is the trainer's, too: one that does not end when it is told to still holds it."""
    process = trainings.start(FAKE_IGNORE_TERM=1, FAKE_SECONDS_PER_UPDATE=1)
    wait_for(lambda: trainings.record.exists() and "resumed_at" in trainings.record.read_text())
    process.kill()
    process.communicate(timeout=60)
    (pid,) = trainings.records("pid")
    try:
        monkeypatch.setattr(locks, "RELEASE_SECONDS", 1.0)
        code, text = trainings.run()
        assert code == 1
        assert "trained already" in text
        assert f"kill {process.pid} {pid} on" in text
    finally:
        os.kill(pid, signal.SIGKILL)
    assert len(trainings.records("arguments")) == 1
    assert trainings.run()[0] == 0


def test_one_that_is_started_again_waits_for_one_that_is_ending(trainings: Trainings) -> None:
    """As SLURM does with a preempted job, whose first processes may take their time."""
    first = trainings.start(FAKE_IGNORE_TERM=1, FAKE_SECONDS_PER_UPDATE=0.1)
    wait_for(lambda: any((trainings.output / "checkpoints").glob("*/checkpoint_last.pt")))
    first.terminate()
    lock = trainings.output / "checkpoints" / "lock"
    wait_for(lambda: json.loads(lock.read_text()).get("stopping") == "SIGTERM")
    second = trainings.start()
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(3)
    assert len(trainings.records("pid")) == 1
    os.kill(trainings.records("pid")[0], signal.SIGKILL)
    assert first.wait(60) == 1
    _, text = second.communicate(timeout=60)
    assert second.returncode == 0, text
    assert "resuming at update" in text
    first.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_passed_on(trainings: Trainings, number: signal.Signals) -> None:
    process = trainings.start(FAKE_SECONDS_PER_UPDATE=0.1)
    wait_for(lambda: any((trainings.output / "checkpoints").glob("*/checkpoint_last.pt")))
    process.send_signal(number)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"stopped by {number.name} after update 1" in text
    assert "resumes at update 10" in text
    (pid,) = trainings.records("pid")
    assert not alive(pid)
    assert trainings.run()[0] == 0
    assert trainings.records("resumed_at")[-1] >= 10


# ---- damage ----


def test_a_damaged_checkpoint_is_replaced_by_the_one_before(trainings: Trainings, tmp_path: Path) -> None:
    once = {"FAKE_DIE_AT_UPDATE": 45, "FAKE_DIE_ONCE": tmp_path / "once", "FAKE_TRUNCATE_LAST": 1}
    code, text = trainings.run(**once)
    assert code == 1
    assert "the trainer ended with" in text and "resumes at update 40" in text
    os.truncate(trainings.folder / "checkpoint_1_40.pt", 700)
    code, text = trainings.run(**once)
    assert code == 0, text
    assert "checkpoint_last.pt is damaged" in text
    assert "checkpoint_1_40.pt is damaged, too" in text
    assert "going back to checkpoint_1_30.pt, update 30" in text
    assert trainings.records("resumed_at") == [0, 30]
    assert trainings.updates("train") == list(range(1, 61))
    finished = json.loads((trainings.folder / "finished.json").read_text())
    assert finished == {"updates": 60, "stopped_early": False}
    # kept while it may be looked at, not for ever
    assert not (trainings.folder / "checkpoint_last.pt.damaged").exists()


def test_never_from_zero_in_silence(trainings: Trainings, tmp_path: Path) -> None:
    once = {"FAKE_DIE_AT_UPDATE": 25, "FAKE_DIE_ONCE": tmp_path / "once"}
    assert trainings.run(**once)[0] == 1
    for path in trainings.folder.glob("checkpoint_*.pt"):
        path.write_bytes(b"")
    for _ in range(2):  # and it stays refused
        code, text = trainings.run(**once)
        assert code == 1
        assert "no checkpoint of this run can be read" in text
        assert f"rm -r {trainings.folder}" in text
    assert trainings.records("resumed_at") == [0]


def test_only_an_empty_folder_is_a_start_from_zero(tmp_path: Path) -> None:
    said = list[str]()
    for unfinished in ("checkpoint_1_20.pt.tmp", "crash.pt"):
        (tmp_path / unfinished).write_bytes(b"cut short")
    assert prepare_resume(tmp_path, said.append) is None
    assert newest_saved(tmp_path) == 0 and list(tmp_path.iterdir()) == []
    last = tmp_path / "checkpoint_last.pt"
    torch.save(fake.training_state(20), tmp_path / "checkpoint_1_20.pt")
    assert newest_saved(tmp_path) == 0  # the last one is missing
    # and is made again from the one before
    assert prepare_resume(tmp_path, said.append) == ResumePoint(last, 20)
    assert len(said) == 1 and "going back to checkpoint_1_20.pt" in said[0]
    assert newest_saved(tmp_path) == 20
    (tmp_path / "checkpoint_1_20.pt").unlink()
    assert newest_saved(tmp_path) == 0  # of the last one the name does not tell
    last.rename(tmp_path / "checkpoint_last.pt.damaged")
    with pytest.raises(TrainingError, match="no checkpoint of this run can be read"):
        prepare_resume(tmp_path, said.append)


def state_of(processes: int, iterations: int) -> dict[str, Any]:
    state = fake.training_state(20)
    state["cfg"]["distributed_training"] = {"distributed_world_size": processes}
    state["extra_state"]["train_iterator"] = {"version": 2, "epoch": 3, "iterations_in_epoch": iterations}
    return state


@pytest.mark.parametrize(
    ("before", "iterations", "after", "expected"),
    [(1, 12, 2, 6), (2, 6, 1, 12), (2, 6, 4, 3), (4, 3, 6, 2), (2, 6, 2, 6), (8, 0, 5, 0)],
)
def test_other_processes_go_on_at_the_same_place(
    before: int, iterations: int, after: int, expected: int, tmp_path: Path
) -> None:
    path, said = tmp_path / "checkpoint_last.pt", list[str]()
    torch.save(state_of(before, iterations), path)
    written = path.read_bytes()
    for _ in range(2):  # once is enough: what a kill leaves is not converted again
        fit_to_processes(path, after, said.append)
        state = read_state(path)
        assert state["extra_state"]["train_iterator"] == {
            **{"version": 2, "epoch": 3},
            "iterations_in_epoch": expected,
        }
    untouched = expected == iterations
    assert (path.read_bytes() == written) == untouched and len(said) == (0 if untouched else 1)
    for name, tensor in fake.training_state(20)["model"].items():
        assert torch.equal(state["model"][name], tensor)


def test_a_place_that_other_processes_cannot_share_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_last.pt"
    torch.save(state_of(2, 7), path)
    with pytest.raises(TrainingError, match=r"2 processes trained here, on 14 batches .* which 4") as caught:
        fit_to_processes(path, 4, print)
    assert "give it 2 processes again" in str(caught.value)


def test_a_half_written_metrics_line_is_dropped(trainings: Trainings, tmp_path: Path) -> None:
    once = {"FAKE_DIE_AT_UPDATE": 35, "FAKE_DIE_ONCE": tmp_path / "once"}
    assert trainings.run(**once)[0] == 1
    with (trainings.folder / "metrics.jsonl").open("a") as handle:
        handle.write('{"kind": "train", "update": 3')
    assert trainings.run(**once)[0] == 0
    assert trainings.updates("train") == list(range(1, 61))


# ---- refusals ----


def test_a_recipe_changed_half_way_is_refused_by_key(trainings: Trainings, tmp_path: Path) -> None:
    once = {"FAKE_DIE_AT_UPDATE": 35, "FAKE_DIE_ONCE": tmp_path / "once"}
    assert trainings.run(**once)[0] == 1
    changed = recipe(lr=1e-4, dropout=0.3)
    code, text = trainings.run(given=changed)
    assert code == 1
    assert "training.lr: 0.005 → 0.0001" in text
    assert "training.dropout: 0.1 → 0.3" in text
    assert f"rm -r {trainings.folder}" in text
    assert trainings.records("resumed_at") == [0]
    # changed back, it resumes; given up, it starts anew
    assert trainings.run(**once)[0] == 0
    assert trainings.records("resumed_at") == [0, 30]
    # a finished run is in nobody's way
    code, text = trainings.run(given=changed)
    assert code == 0, text


def test_giving_up_an_unfinished_run(trainings: Trainings, tmp_path: Path) -> None:
    assert trainings.run(FAKE_DIE_AT_UPDATE=35)[0] == 1
    code, text = trainings.run("--discard-unfinished", given=recipe(lr=1e-4))
    assert code == 0, text
    assert trainings.folder.name == json.loads((trainings.output / "model.json").read_text())["fingerprint"]


def test_changed_data_is_refused_half_way(trainings: Trainings) -> None:
    assert trainings.run(FAKE_DIE_AT_UPDATE=35)[0] == 1
    (trainings.data_bin / "manifest.json").write_text('{"files": {"train.de-en.de.bin": "1"}}')
    code, text = trainings.run()
    assert code == 1
    assert "the binarised data changed" in text


def manifest_of(train: str, heldout: str) -> str:
    files = {"dict.de.txt": "0", "train.de-en.de.bin": train, "shard0/heldout.de-en.de.bin": heldout}
    splits = {
        name: {"de-en": {"segments": len(text)}} for name, text in (("train", train), ("heldout", heldout))
    }
    return json.dumps({"pairs": ["de-en"], "splits": splits, "files": files})


def test_other_heldout_text_trains_nothing(trainings: Trainings) -> None:
    manifest = trainings.data_bin / "manifest.json"
    manifest.write_text(manifest_of("1", "1"))
    assert trainings.run()[0] == 0
    manifest.write_text(manifest_of("1", "22"))
    assert trainings.run()[0] == 0
    assert len(trainings.records("arguments")) == 1
    manifest.write_text(manifest_of("2", "22"))
    assert trainings.run()[0] == 0
    assert len(trainings.records("arguments")) == 2


def test_a_run_from_when_heldout_text_counted_goes_on(
    trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (trainings.data_bin / "manifest.json").write_text(manifest_of("1", "1"))
    with monkeypatch.context() as former:
        former.setattr(training_runs, "_training_part", dict)
        assert trainings.run(FAKE_DIE_AT_UPDATE=35)[0] == 1
    assert trainings.run()[0] == 0
    assert (
        trainings.records("arguments")[-1] and len(list(trainings.output.glob("checkpoints/*/run.json"))) == 1
    )


def test_a_touched_file_changes_nothing(trainings: Trainings) -> None:
    assert trainings.run()[0] == 0
    (trainings.output / "model.json").unlink()
    for path in trainings.data_bin.iterdir():
        os.utime(path)
    text = (trainings.data_bin / "manifest.json").read_text()
    (trainings.data_bin / "manifest.json").write_text(json.dumps(json.loads(text), indent=4))
    assert trainings.run()[0] == 0
    assert len(trainings.records("arguments")) == 1


def test_an_edited_run_json_is_refused_by_key(trainings: Trainings) -> None:
    assert trainings.run(FAKE_DIE_AT_UPDATE=35)[0] == 1
    path = trainings.folder / "run.json"
    run = json.loads(path.read_text())
    run["recipe"]["training"]["dropout"] = 0.9
    path.write_text(json.dumps(run))
    code, text = trainings.run()
    assert code == 1
    assert "training.dropout: 0.9 → 0.1" in text


def test_missing_inputs_are_named(trainings: Trainings) -> None:
    assert "model to go on from is missing" in trainings.run("--init", "nowhere.pt")[1]
    (trainings.data_bin / "valid.de-en.de.idx").unlink()
    code, text = trainings.run()
    assert code == 1
    assert "no valid text for en-de, de-en" in text
    (trainings.data_bin / "valid.de-en.de.idx").touch()
    (trainings.data_bin / "valid.de-en.de.bin").touch()
    code, text = trainings.run()
    assert code == 1
    assert "the valid text of de-en has no segment" in text
    (trainings.data_bin / "valid.de-en.de.bin").write_bytes(b"\0")
    (trainings.data_bin / "dict.de.txt").unlink()
    assert "no dictionary for de" in trainings.run()[1]
    shutil.rmtree(trainings.data_bin)
    assert "binarised data is missing" in trainings.run()[1]
    assert not trainings.record.exists()


def test_a_gpu_that_is_not_there_is_refused_before_anything_is_made(trainings: Trainings) -> None:
    code, text = trainings.run("--gpus", "1", CUDA_VISIBLE_DEVICES="")
    assert code == 1
    assert "the training of baseline asks for 1 GPU and none can be used (CUDA_VISIBLE_DEVICES=)" in text
    for part in ("  where: --gpus", "  likely cause: ", "  next: "):
        assert part in text
    code, text = trainings.run("--gpus", "2", "--launcher", "srun", given=recipe(micro_batches=2))
    assert code == 1 and "srun starts the processes of a SLURM job" in text
    assert not trainings.output.exists() and not trainings.record.exists()


@pytest.fixture
def two_gpus(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine whose driver lists two GPUs, which nobody has taken yet."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    program.chmod(0o755)
    return {
        "PATH": os.pathsep.join([str(program.parent), *os.get_exec_path()]),
        "TMPDIR": str(tmp_path),
        "NEURON_SPECIALIZATION_PRETEND_GPUS": "1",
    }


def test_two_trainings_at_once_get_a_gpu_each(trainings: Trainings, two_gpus: dict[str, str]) -> None:
    """Snakemake starts both with one GPU each and says of neither which."""
    processes = []
    for name in ("first", "second"):
        trainings.output = trainings.output.with_name(name)
        processes.append(trainings.start("--gpus", "1", FAKE_SECONDS_PER_UPDATE=1, **two_gpus))
    try:
        wait_for(lambda: trainings.record.exists() and len(trainings.records("environment")) == 2)
        assert all(process.poll() is None for process in processes)
        given = {environment["CUDA_VISIBLE_DEVICES"] for environment in trainings.records("environment")}
        assert given == {"0", "1"}
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.communicate(timeout=60)
    # what a training that was stopped gave back, the next one takes
    trainings.output = trainings.output.with_name("both")
    process = trainings.start("--gpus", "2", given=recipe(micro_batches=2), **two_gpus)
    _, text = process.communicate(timeout=120)
    assert process.returncode == 0, text
    assert trainings.records("environment")[-1]["CUDA_VISIBLE_DEVICES"] == "0,1"
    code, text = trainings.run("--gpus", "3", given=recipe(micro_batches=3), **two_gpus)
    assert code == 1 and "asks for 3 GPUs and 2 can be used" in text


def test_a_process_on_a_gpu_ends_with_the_wrapper_and_holds_its_locks(
    trainings: Trainings, two_gpus: dict[str, str]
) -> None:
    """One process a GPU, each started by us: also one that computes in C and does not listen."""
    given = recipe(micro_batches=2)
    process = trainings.start("--gpus", "2", given=given, FAKE_COMPUTE=1, **two_gpus)
    wait_for(lambda: trainings.record.exists() and len(trainings.records("computing")) == 2)
    ranks = trainings.records("pid")
    assert len(ranks) == 2 and all(alive(pid) for pid in ranks)
    for pid in ranks:
        held = {link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir()}
        assert {"lock", "gpu-0.lock", "gpu-1.lock"} <= held
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    wait_for(lambda: not any(alive(pid) for pid in ranks), seconds=15)
    code, text = trainings.run("--gpus", "2", given=given, **two_gpus)
    assert code == 0, text


def test_the_words_of_the_gpu_that_failed_are_shown(trainings: Trainings, two_gpus: dict[str, str]) -> None:
    code, text = trainings.run(
        *("--gpus", "2"),
        given=recipe(micro_batches=2),
        FAKE_EXIT="1:torch.OutOfMemoryError: CUDA out of memory",
        FAKE_EXIT_RANK=1,
        FAKE_SECONDS_PER_UPDATE=1,
        **two_gpus,
    )
    assert code == 1
    assert "CUDA out of memory" in text and "GPU's memory is too small" in text and "train.1.log" in text


# ---- failures of the trainer ----


def test_a_loss_that_is_no_number_stops_training(trainings: Trainings) -> None:
    code, text = trainings.run(FAKE_NAN_AT_UPDATE=23, FAKE_SECONDS_PER_UPDATE=0.02)
    assert code == 1
    assert "training loss is nan" in text
    assert "update 23" in text
    assert "training.lr" in text
    assert "done training" not in (trainings.folder / "train.log").read_text()  # it was stopped
    assert not (trainings.output / "model.pt").exists()


def test_fairseqs_own_complaint_names_update_and_directions(trainings: Trainings) -> None:
    code, text = trainings.run(FAKE_RAISE_NAN_AT_UPDATE=23)
    assert code == 1
    assert "diverged after update 22" in text
    assert "gradients are Nan/Inf" in text


def test_the_trainers_last_words_are_shown(trainings: Trainings) -> None:
    code, text = trainings.run(FAKE_EXIT="3:OSError: [Errno 28] No space left on device")
    assert code == 1
    assert "exit status 3" in text
    assert "Errno 28" in text
    assert "likely cause: the disk is full" in text
    assert "starts again" in text
    assert "Traceback" not in text


def test_a_trainer_that_ends_early_without_a_reason(trainings: Trainings) -> None:
    code, text = trainings.run(FAKE_END_AT=40)
    assert code == 1
    assert "ended after 40 of 60 updates without saying why" in text
    assert trainings.run()[0] == 0
    assert trainings.records("resumed_at") == [0, 40]


def test_a_full_disk(trainings: Trainings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own writing fails: the trainer is ended, and what is there is gone on from."""

    def full(self: MetricsFile, record: Record) -> None:
        if record.update == 25:
            raise OSError(errno.ENOSPC, "No space left on device")
        add(self, record)

    add = MetricsFile.add
    with monkeypatch.context() as patched:
        patched.setattr(MetricsFile, "add", full)
        code, text = trainings.run(FAKE_SECONDS_PER_UPDATE=0.01)
    assert code == 1
    assert "No space left on device" in text and "likely cause: the disk is full" in text
    (pid,) = trainings.records("pid")
    assert not alive(pid)
    assert trainings.run()[0] == 0
    assert trainings.records("resumed_at")[1] >= 20
    assert trainings.updates("train") == list(range(1, 61))


def test_a_trainer_that_cannot_be_started(trainings: Trainings) -> None:
    code, text = trainings.run("--trainer", "/nonexistent/trainer")
    assert code == 1
    assert "trainer cannot be started" in text


def test_a_folder_that_cannot_be_written(trainings: Trainings, tmp_path: Path) -> None:
    (tmp_path / "training").write_text("a file where a folder should be")
    code, text = trainings.run()
    assert code == 1
    assert "cannot be read or written" in text and "disk is full" not in text
    assert "Traceback" not in text
