"""Faults that cost seconds, so that every `make test` meets them: a full disk, cut checkpoints."""

from __future__ import annotations

import contextlib
import errno
import io
import random
import shutil
from pathlib import Path

import pytest
import torch

from neuron_specialization.cli import main
from neuron_specialization.config import load_config
from neuron_specialization.corpora.spec import corpus_spec_of
from neuron_specialization.preprocessing.vocabulary import vocabulary_spec_of
from neuron_specialization.storage.files import atomic_path
from neuron_specialization.training.resume import LAST, prepare_resume
from tests.fakes.checkpoints import write_training_checkpoints
from tests.workflow.faults.experiment import SMALL, write_text
from tests.workflow.faults.storage import needs_mount, small_disk


def run(*arguments: str) -> tuple[int, str]:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            main(list(arguments))
        except SystemExit as end:
            return int(end.code or 0), text.getvalue()
    return 0, text.getvalue()


@needs_mount
def test_the_disk_fills_up_under_corpus_and_vocabulary(tmp_path: Path) -> None:
    config = load_config(SMALL)
    write_text(tmp_path / "text")
    with small_disk(tmp_path / "disk") as disk:
        corpus, vocabulary = disk.folder / "corpus", disk.folder / "vocabulary"
        specs = corpus_spec_of(config).model_dump_json(), vocabulary_spec_of(config).model_dump_json()
        made = {
            corpus: ["corpus", "--source", "local", "--input", str(tmp_path / "text"), "--spec", specs[0]],
            vocabulary: ["vocabulary", "--corpus", str(corpus), "--spec", specs[1]],
        }
        for folder, arguments in made.items():
            disk.fill(leave=8192)
            status, text = run(*arguments, "--output", str(folder))
            assert status == 1, text
            assert "No space left on device" in text and "make room" in text
            assert f"where: {folder}" in text and "Traceback" not in text
            assert not any(path.name.startswith(".") for path in folder.rglob("*"))
            disk.release()
            assert run(*arguments, "--output", str(folder))[0] == 0


@needs_mount
def test_the_disk_fills_up_under_a_model(tmp_path: Path) -> None:
    """What torch says of it names neither the disk nor the file."""
    with small_disk(tmp_path / "disk", mebibytes=1) as disk:
        model = disk.folder / "model.pt"
        model.write_text("the one before", encoding="utf-8")
        with pytest.raises(OSError) as caught, atomic_path(model) as temporary:
            torch.save({"weights": torch.zeros(1 << 20)}, temporary)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(model))
        assert model.read_text(encoding="utf-8") == "the one before"
        assert [path.name for path in disk.folder.iterdir()] == ["model.pt"]


def test_a_checkpoint_cut_at_any_byte_is_set_aside_and_said(tmp_path: Path) -> None:
    prepared = write_training_checkpoints(tmp_path / "prepared", range(10, 21, 10))
    size, generator = (prepared / "20.pt").stat().st_size, random.Random()
    for number, cut in enumerate([0, 1, size - 1, *(generator.randrange(size) for _ in range(37))]):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, source in (("checkpoint_1_10.pt", "10.pt"), (LAST, "20.pt")):
            shutil.copyfile(prepared / source, folder / name)
        with (folder / LAST).open("r+b") as handle:
            handle.truncate(cut)
        said: list[str] = []
        point = prepare_resume(folder, said.append)
        assert point is not None and point.updates == 10, cut
        assert [line.split(" (")[0] for line in said][:1] == [f"{LAST} is damaged"], (cut, said)
