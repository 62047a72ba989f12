"""Disks that are full or cannot be written to, under every stage: said, and nothing half is left."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from neuron_specialization.cli import main
from tests.workflow.faults.experiment import Experiment
from tests.workflow.faults.storage import SmallDisk, needs_mount, small_disk

pytestmark = [pytest.mark.faults, pytest.mark.slow, needs_mount]

MODEL = "results/faults/training/ns/model.pt"

# stage → what it makes, below results/faults; and how many bytes of it still fit
STAGES = {
    "corpus": ("corpus", 40_000),
    "vocabulary": ("vocabulary", 0),
    "binarize": ("binarized", 20_000),
    "train baseline": ("training/baseline", 700_000),
    "train ns": ("training/ns", 4096),
    "activations": ("activations", 0),
    "masks": ("masks/k95", 0),
    "overlap": ("masks/k95/overlap.json", 0),
    "export": ("models/ns", 8192),
    "translate": ("translations", 0),
    "score": ("scores", 0),
    "compare": ("comparisons", 0),
    "tables": ("tables", 0),
    "evaluation-tables": ("tables/evaluation.md", 0),
    "costs": ("tables", 0),
    "perplexity": ("tables", 0),
    "figures": ("figures", 8192),
    "report": ("report.html", 0),
}


@contextlib.contextmanager
def results_on_a_small_disk(undisturbed: Experiment, folder: Path) -> Iterator[tuple[Experiment, SmallDisk]]:
    """A copy of the finished experiment whose results lie on a disk of their own."""
    with small_disk(folder / "results") as disk:
        yield undisturbed.copied_to(folder), disk


@dataclass
class Stage:
    """A stage of a finished experiment on a small disk, whose output is gone, so that it has to write."""

    copy: Experiment
    disk: SmallDisk
    command: list[str]
    room: int

    def run(self) -> tuple[int, str]:
        """Run it in this process, which saves its start: exit status and what it said."""
        text = io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
            try:
                main(self.command)
            except SystemExit as end:
                return int(end.code or 0), text.getvalue()
        return 0, text.getvalue()


@pytest.fixture
def stage(
    request: pytest.FixtureRequest,
    undisturbed: Experiment,
    commands: dict[str, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Stage]:
    name = request.param
    output, room = STAGES[name]
    with results_on_a_small_disk(undisturbed, tmp_path) as (copy, disk):
        monkeypatch.chdir(copy.folder)
        made = copy.results / output
        if made.is_dir():
            shutil.rmtree(made)
        else:
            made.unlink()
        yield Stage(copy, disk, commands[name], room)
        monkeypatch.undo()  # a disk that somebody stands in cannot be taken away


@pytest.mark.parametrize("stage", STAGES, indirect=True)
def test_a_full_disk(stage: Stage, undisturbed: Experiment) -> None:
    expected = undisturbed.fingerprints()
    stage.disk.fill(leave=stage.room)
    status, text = stage.run()
    assert status == 1, text
    assert "No space left on device" in text or "the disk is full" in text, text
    assert "Traceback" not in text
    # nothing under a final name that is not whole
    made = stage.copy.fingerprints()
    assert {name: made[name] for name in made if expected.get(name) != made[name]} == {}
    assert stage.copy.leftovers() in ([], [".filler"])
    stage.disk.release()
    status, text = stage.run()
    assert status == 0, text
    made = stage.copy.fingerprints()
    assert {name for name in made if expected.get(name) != made[name]} == set()


@pytest.mark.parametrize(
    "stage", ["corpus", "train baseline", "activations", "translate", "figures"], indirect=True
)
def test_a_disk_that_cannot_be_written_to(stage: Stage) -> None:
    stage.disk.read_only(True)
    status, text = stage.run()
    stage.disk.read_only(False)
    assert status == 1, text
    assert "Read-only file system" in text
    assert "Traceback" not in text


def test_snakemake_says_which_job_found_the_disk_full(undisturbed: Experiment, tmp_path: Path) -> None:
    with results_on_a_small_disk(undisturbed, tmp_path) as (copy, disk):
        shutil.rmtree(copy.results / "training/ns")
        disk.fill(leave=4096)
        done = copy.run("--", MODEL)
        assert done.status != 0
        assert "disk is full" in done.output or "No space left" in done.output
        assert "train_specialised" in done.output
        disk.release()
        done = copy.run("--", MODEL)
        assert done.status == 0, done.output
        assert copy.fingerprints() == undisturbed.fingerprints()
        # times are part of metrics.jsonl: what is made of them is made again, and nothing else
        assert not {"train_baseline", "train_specialised", "translate"} & set(copy.run("--dry-run").jobs)


def test_the_disk_that_all_of_it_lies_on_is_full(undisturbed: Experiment, tmp_path: Path) -> None:
    """Snakemake's own records and the logs are on it, too."""
    with small_disk(tmp_path / "disk") as disk:
        copy = undisturbed.copied_to(tmp_path / "disk" / "run")
        shutil.rmtree(copy.results / "training/ns")
        disk.fill(leave=200_000)
        output = tmp_path / "snakemake.txt"
        assert copy.start("--", MODEL, output=output).wait(600) != 0
        assert "No space left on device" in output.read_text(encoding="utf-8", errors="replace")
        disk.release()
        assert copy.run("--unlock").status == 0
        done = copy.run("--", MODEL)
        assert done.status == 0, done.output
