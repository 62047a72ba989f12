"""A real training, really interrupted: what may go on from it, and what is refused."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path

import pytest

from neuron_specialization.training.resume import LAST, interval_checkpoints, prepare_resume
from tests.workflow.faults.experiment import Experiment
from tests.workflow.faults.kill_moments import run_trials
from tests.workflow.faults.processes import send, wait_until

pytestmark = [pytest.mark.faults, pytest.mark.slow]

MODEL = "results/faults/training/ns/model.pt"
SAVED_EVERY = 6
CLOCKS = [Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")]


def untrained(undisturbed: Experiment, folder: Path) -> Experiment:
    """A copy that lacks its specialised system, the fastest training."""
    copy = undisturbed.copied_to(folder)
    shutil.rmtree(copy.results / "training/ns")
    return copy


def start_training(run: Experiment, update: int) -> None:
    """Start the workflow, and come back when its training has made an update."""
    run.start("--", MODEL)
    reached = lambda: max((last for _, last in run.starts("ns")), default=0) >= update  # noqa: E731
    wait_until(reached, 300, f"update {update}", every=0.01)


@pytest.fixture(scope="module")
def killed(undisturbed: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """A run all of whose processes were killed after update 20. Copy it; do not change it."""
    run = untrained(undisturbed, tmp_path_factory.mktemp("killed"))
    start_training(run, 20)
    run.end()
    assert run.run("--unlock").status == 0
    assert not (run.folder / MODEL).exists()
    return run


def checkpoints(run: Experiment) -> Path:
    (folder,) = (path for path in (run.results / "training/ns/checkpoints").iterdir() if path.is_dir())
    return folder


def test_random_moments(tmp_path: Path) -> None:
    """A few of the interruptions that kill_moments.py makes by the dozen."""
    assert run_trials(tmp_path, times=6, per_trial=6, seed=random.randrange(1 << 32))


def test_two_at_once(undisturbed: Experiment, tmp_path: Path) -> None:
    run = untrained(undisturbed, tmp_path)
    start_training(run, 1)
    output = tmp_path / "second.txt"
    assert run.start("--", MODEL, output=output).wait(120) != 0
    text = output.read_text(encoding="utf-8")
    assert "LockException" in text and "--unlock" in text
    wait_until(lambda: not run.processes(), 300, "the first one ends")
    assert run.fingerprints() == undisturbed.fingerprints()
    assert len(run.starts("ns")) == 1


def test_a_restart_while_the_old_trainer_lives(undisturbed: Experiment, tmp_path: Path) -> None:
    run = untrained(undisturbed, tmp_path)
    start_training(run, 1)
    # it is not to end before the second one has looked
    trainer, (wrapper,) = run.processes("trainer"), run.processes("wrapper")
    send(trainer, signal.SIGSTOP)
    send(run.processes("snakemake"), signal.SIGKILL)
    wait_until(lambda: not run.processes("snakemake"), 30, "Snakemake ends")
    assert run.run("--unlock").status == 0
    done = run.run("--", MODEL)
    assert done.status != 0
    assert f"is being trained already by process {wrapper.pid} on" in done.output
    assert f"kill {wrapper.pid} {trainer[0].pid} on" in done.output
    send(trainer, signal.SIGCONT)
    send([wrapper, *trainer], signal.SIGTERM)  # as it says
    wait_until(lambda: not run.processes("wrapper", "trainer"), 60, "the old one ends")
    assert run.run("--", MODEL).status == 0
    assert run.fingerprints() == undisturbed.fingerprints()
    assert len(run.starts("ns")) == 2 and max(run.redone("ns")) <= SAVED_EVERY


def test_a_setting_changed_half_way_is_refused_by_key(killed: Experiment, tmp_path: Path) -> None:
    run = killed.copied_to(tmp_path)
    run.overrides = {"finetuning": {"lr": 2e-3}}
    done = run.run("--", MODEL)
    assert done.status != 0
    assert "training.lr: 0.001 → 0.002" in done.output
    assert "change it back and run again, which resumes" in done.output
    assert len(run.starts("ns")) == 1
    run.overrides = {}
    assert run.run("--", MODEL).status == 0
    assert len(run.starts("ns")) == 2 and max(run.redone("ns")) <= SAVED_EVERY


def test_a_checkpoint_cut_at_any_byte_is_not_gone_on_from(killed: Experiment, tmp_path: Path) -> None:
    source, generator = checkpoints(killed), random.Random()
    size = (source / LAST).stat().st_size
    before = interval_checkpoints(source)[0]
    cuts = [0, 1, size - 1, *(generator.randrange(size) for _ in range(97))]
    for cut in cuts:
        shutil.copytree(source, tmp_path / "cut")
        with (tmp_path / "cut" / LAST).open("r+b") as handle:
            handle.truncate(cut)
        said: list[str] = []
        point = prepare_resume(tmp_path / "cut", said.append)
        assert point is not None and f"_{point.updates}.pt" in before.name, cut
        assert any(f"{LAST} is damaged" in line for line in said), cut
        assert any(f"going back to {before.name}" in line for line in said), cut
        shutil.rmtree(tmp_path / "cut")


def test_a_flipped_bit_is_not_gone_on_from(killed: Experiment, tmp_path: Path) -> None:
    source, generator = checkpoints(killed), random.Random()
    whole = bytearray((source / LAST).read_bytes())
    unnoticed = 0
    for _ in range(100):
        shutil.copytree(source, tmp_path / "flipped")
        bit = generator.randrange(len(whole) * 8)
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        (tmp_path / "flipped" / LAST).write_bytes(changed)
        said: list[str] = []
        assert prepare_resume(tmp_path / "flipped", said.append) is not None
        unnoticed += not said
        shutil.rmtree(tmp_path / "flipped")
    # the padding and the dates between a ZIP's members are covered by no checksum, and are no content
    assert unnoticed <= 15


def test_it_goes_on_from_the_one_before_and_ends_the_same(
    killed: Experiment, undisturbed: Experiment, tmp_path: Path
) -> None:
    run = killed.copied_to(tmp_path)
    last = checkpoints(run) / LAST
    with last.open("r+b") as handle:
        handle.truncate(random.randrange(last.stat().st_size))
    done = run.run("--", MODEL)
    assert done.status == 0, done.output
    assert f"{LAST} is damaged" in done.output and "going back to checkpoint_" in done.output
    assert run.fingerprints() == undisturbed.fingerprints()
    assert run.losses("ns") == undisturbed.losses("ns")


@pytest.mark.parametrize("shift", ["-400d", "+400d"])
def test_a_clock_that_jumps(shift: str, killed: Experiment, undisturbed: Experiment, tmp_path: Path) -> None:
    """The machine comes back with another date; then the date is put right."""
    library = next((path for path in CLOCKS if path.exists()), None)
    if library is None:
        pytest.skip("libfaketime is not installed")
    run = killed.copied_to(tmp_path)
    for name in ("models/ns", "translations/ns", "scores/ns", "comparisons", "tables"):
        shutil.rmtree(run.results / name)
    # dates jump; what processes time their waiting by does not, on a real machine either
    run.environment = {
        **{"LD_PRELOAD": str(library), "FAKETIME": shift},
        **{"FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"},
    }
    for _ in range(10):
        done = run.run()
        # now and then libfaketime makes a sleep fail, as Snakemake's SLURM plugin starts
        if "time.sleep(delay)\nOSError: [Errno 22]" not in done.output:
            break
    if shift.startswith("-"):  # Snakemake does not take a file that is older than what it is made from
        assert done.status != 0 and "clock skew" in done.output
    else:
        assert done.status == 0, done.output
    run.environment = {}
    done = run.run()
    assert done.status == 0, done.output
    assert run.fingerprints() == undisturbed.fingerprints()
    # what was trained under the wrong date is published, and not trained again
    assert len(run.starts("baseline")) == 1 and len(run.starts("ns")) == 2
    assert run.run("--dry-run").nothing_to_do


def test_touched_text_and_an_edited_comment_train_nothing(undisturbed: Experiment, tmp_path: Path) -> None:
    run = undisturbed.copied_to(tmp_path)
    config = run.folder / "config.yaml"
    config.write_text(f"# a remark\n{config.read_text(encoding='utf-8')}# another\n", encoding="utf-8")
    assert run.run("--dry-run").nothing_to_do
    touched = [path for name in ("corpus", "binarized") for path in (run.results / name).rglob("*.*")]
    for path in [*(run.folder / "text").iterdir(), *touched]:
        path.touch()
    planned = run.run("--dry-run")
    assert planned.status == 0 and not {"train_baseline", "train_specialised"} & set(planned.jobs)
    done = run.run()
    assert done.status == 0, done.output
    assert run.fingerprints() == undisturbed.fingerprints()
    assert len(run.starts("baseline")) == len(run.starts("ns")) == 1
