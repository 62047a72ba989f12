"""Text that comes from elsewhere: fairseq's output, configurations, corpora, dictionaries, logs, metrics."""

from __future__ import annotations

import copy
import gzip
import json
import re
import zipfile
from pathlib import Path

import yaml
from hypothesis import given
from hypothesis import strategies as st

from neuron_specialization.config import load_config, parse_config, parse_recipe, recipe_of
from neuron_specialization.corpora.homeassistant import extract
from neuron_specialization.corpora.local import read_local
from neuron_specialization.directions import Direction
from neuron_specialization.formats.data_bin import dictionary_ids
from neuron_specialization.formats.fairseq_output import read_generate_output
from neuron_specialization.preprocessing.binarize import read_dictionary
from neuron_specialization.training.progress import MetricsFile, TrainerLog
from tests.conftest import REPOSITORY
from tests.fuzz.harness import Edits, Grafts, edited, edits, fuzz, grafted, grafts, reads_or_explains

OUTPUT = (
    b"S-1\t__de__ zwei\nT-1\ttwo\nH-1\t-0.5\ttwo\nD-1\t-0.5\ttwo\nP-1\t-0.1 -0.2\n"
    b"S-0\t__de__ eins\nT-0\tone\nH-0\t-0.5\twon\nD-0\t-0.5\twon\nP-0\t-0.1\n"
    b"Generate test with beam=5: BLEU4 = 34.44, 65.0/40.7/27.9/19.7 (BP=0.992, ratio=0.992)\n"
)


@fuzz
@given(changes=edits, packed=st.booleans())
def test_fairseq_output(folder: Path, changes: Edits, packed: bool) -> None:
    path = folder / ("generate.txt.gz" if packed else "generate.txt")
    path.write_bytes(edited(gzip.compress(OUTPUT, 1) if packed else OUTPUT, changes))
    found = reads_or_explains(
        "fairseq output", folder, lambda: read_generate_output(path, Direction("de", "en"))
    )
    assert found is None or len(found.sources) == len(found.hypotheses) == len(found.scores) > 0
    if not changes:
        assert found is not None


SMOKE_TEXT = (REPOSITORY / "configs/smoke.yaml").read_bytes()
SMOKE = yaml.safe_load(SMOKE_TEXT)
RECIPE = recipe_of(parse_config(SMOKE), next(iter(SMOKE["systems"]))).model_dump_json()
# what becomes a file name or a word of a command
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]*")


@fuzz
@given(changes=edits)
def test_configuration_as_text(folder: Path, changes: Edits) -> None:
    path = folder / "config.yaml"
    path.write_bytes(edited(SMOKE_TEXT, changes))
    found = reads_or_explains("configuration, text", folder, lambda: load_config(path))
    assert changes or found is not None


@fuzz
@given(changes=grafts)
def test_configuration_as_values(folder: Path, changes: Grafts) -> None:
    values = grafted(copy.deepcopy(SMOKE), changes)
    found = reads_or_explains("configuration, values", folder, lambda: parse_config(values))
    if found is not None:
        names = [found.experiment, *found.languages, *found.systems, *found.masks, *found.testsets]
        assert all(NAME.fullmatch(name) for name in names), names


@fuzz
@given(changes=edits)
def test_recipes(folder: Path, changes: Edits) -> None:
    text = edited(RECIPE.encode(), changes).decode("utf-8", errors="surrogateescape")
    found = reads_or_explains("recipe (JSON flag)", folder, lambda: parse_recipe(text))
    assert changes or found is not None


TEXTS = json.dumps({"title": "Gerät", "state": {"on": "An", "off": "[%key:common::state::off%]"}}).encode()


@fuzz
@given(changes=edits, damage_archive=st.booleans(), depth=st.sampled_from([0, 0, 0, 500, 5000]))
def test_corpus_json(folder: Path, changes: Edits, damage_archive: bool, depth: int) -> None:
    path, text = folder / "corpus.whl", b'{"a":' * depth + TEXTS + b"}" * depth
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for code in ("de", "en"):
            name = f"homeassistant/components/light/translations/{code}.json"
            archive.writestr(name, text if damage_archive else edited(text, changes))
    if damage_archive:
        path.write_bytes(edited(path.read_bytes(), changes))
    found = reads_or_explains("corpus JSON", folder, lambda: extract(path, ["de", "en"]))
    assert changes or depth or found is not None


LOCAL = {
    f"{split}.de-en.{code}": "\n".join(f"{split} {code} {number}" for number in range(3)).encode() + b"\n"
    for split in ("train", "valid", "test")
    for code in ("de", "en")
}


@fuzz
@given(name=st.sampled_from(sorted(LOCAL)), changes=edits, packed=st.booleans())
def test_local_text(folder: Path, name: str, changes: Edits, packed: bool) -> None:
    for each, data in LOCAL.items():
        (folder / each).unlink(missing_ok=True)
        (folder / f"{each}.gz").unlink(missing_ok=True)
        if each != name:
            (folder / each).write_bytes(data)
        elif packed:
            (folder / f"{each}.gz").write_bytes(edited(gzip.compress(data, 1), changes))
        else:
            (folder / each).write_bytes(edited(data, changes))
    found = reads_or_explains("local text", folder, lambda: read_local(folder, ["de-en"]))
    assert changes or found is not None
    if found is not None:
        for pairs in (found["valid"], found["heldout"]):
            assert all("\n" not in side and side for segment in pairs["de-en"] for side in segment)


DICTIONARY = "".join(f"{piece} 100\n" for piece in ("▁the", "▁", "ß", "#fairseq", "a b", "__de__")).encode()


@fuzz
@given(changes=edits)
def test_dictionaries(folder: Path, changes: Edits) -> None:
    for name in ("dict.txt", "dict.de.txt"):
        (folder / name).write_bytes(edited(DICTIONARY, changes))
    entries = reads_or_explains("dictionary", folder, lambda: read_dictionary(folder / "dict.txt"))
    assert entries is None or len(set(entries)) == len(entries)
    ids = reads_or_explains(
        "dictionary of a data-bin", folder, lambda: dictionary_ids(folder, ["de", "en"], "multilingual")
    )
    assert changes or (entries is not None and ids is not None)


METRICS = (
    b'{"kind": "train", "update": 100, "loss": 7.5, "lr": 0.001, "seconds": 3.5}\n'
    b'{"kind": "valid", "update": 100, "loss": "nan", "nll_by_direction": {"de-en": 6.5}, "seconds": 4}\n'
)
LOG = (
    b'2024 | INFO | train_inner | {"epoch": 1, "num_updates": "40", "loss": "7.5", "wps": "900", "lr": "1"}\n'
    b'2024-01-01 | INFO | valid | {"epoch": 1, "valid_num_updates": "40", "valid_loss": "7", '
    b'"valid_nll_de-en": "6"}\n'
    b"Loaded checkpoint x.pt (epoch 3 @ 120 updates)\nSaved checkpoint x.pt (epoch 3 @ 160 updates)\n"
    b"FloatingPointError: loss is not finite, direction de-en\n"
)


@fuzz
@given(changes=edits, update=st.integers(0, 200))
def test_metrics(folder: Path, changes: Edits, update: int) -> None:
    path = folder / "metrics.jsonl"
    path.write_bytes(edited(METRICS, changes))

    def read() -> list[object]:
        metrics = MetricsFile(path)
        metrics.forget_after(update)
        return [metrics.seconds, *metrics.records]

    found = reads_or_explains("metrics.jsonl", folder, read)
    assert found is not None, "damaged lines are left out, never refused"
    assert changes or len(found) == 1 + 2 * (update >= 100)


@fuzz
@given(changes=edits)
def test_trainer_logs(folder: Path, changes: Edits) -> None:
    log = TrainerLog()

    def read() -> int:
        lines = edited(LOG, changes).decode("utf-8", errors="replace").split("\n")
        return sum(log.read(line) is not None for line in lines)

    found = reads_or_explains("the trainer's log", folder, read)
    assert found is not None, "the log is never refused"
    assert changes or (found, log.loaded_at, log.saved_at, log.failed_directions) == (2, 120, 160, ["de-en"])
