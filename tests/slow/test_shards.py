"""A sharded data-bin, as EC30 comes: taken over, and trained on with fairseq, an epoch a shard."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path

import pytest

from neuron_specialization.preprocessing.take_over import take_over
from neuron_specialization.storage.files import read_json
from neuron_specialization.training.train import train
from tests.slow.tiny_corpus import LANGUAGES, tiny_recipe, write_data_bin

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("implementation", ["fast", "stock"])
def test_an_epoch_a_shard(tmp_path: Path, implementation: str) -> None:
    sizes = (240, 120, 60)
    for number, size in enumerate(sizes):
        write_data_bin(tmp_path / "ec30" / f"shard{number}", segments=size)
    # the reference names every pair after English
    for path in (tmp_path / "ec30").glob("shard*/*.de-en.*"):
        shutil.move(path, path.with_name(path.name.replace(".de-en.", ".en-de.")))
    data_bin = tmp_path / "binarized"
    manifest = take_over(
        tmp_path / "ec30", data_bin, languages=LANGUAGES, pairs=["de-en", "en-nl"], shards=len(sizes)
    )
    assert manifest["splits"]["train"]["de-en"]["segments"] == sum(sizes)

    recipe = tiny_recipe(implementation=implementation, max_updates=40)
    recipe = recipe.model_copy(update={"shards": len(sizes)})
    train(recipe, data_bin, tmp_path / "system", stream=io.StringIO())
    assert read_json(tmp_path / "system" / "model.json")["updates"] is not None
    log = next((tmp_path / "system" / "checkpoints").glob("*/train.log")).read_text(encoding="utf-8")
    loaded = re.findall(r"loaded ([\d,]+) examples from: \S*/(shard\d)/train\.de-en\.de", log)
    order = [shard for index, (_, shard) in enumerate(loaded) if index == 0 or loaded[index - 1][1] != shard]
    assert order[:4] == ["shard0", "shard1", "shard2", "shard0"]
    assert {shard: int(count.replace(",", "")) for count, shard in loaded} == {
        f"shard{number}": size for number, size in enumerate(sizes)
    }
    # validation is on the first shard's text throughout
    assert set(re.findall(r"/(shard\d)/valid\.", log)) == {"shard0"}
