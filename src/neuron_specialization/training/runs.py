"""One training run: its identity, its inputs, and what else stands in the system's folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neuron_specialization.config import Recipe
from neuron_specialization.corpora.layout import MANIFEST
from neuron_specialization.errors import TrainingError, first_few
from neuron_specialization.storage.files import hash_of, read_json, sha256_of
from neuron_specialization.training.arguments import shard_folders

# the splits of a data-bin that training reads
_TRAINED = ("train", "valid")


@dataclass(frozen=True)
class Run:
    """One training run: what is trained, from what, and where.

    Attributes:
        recipe: what decides the result.
        inputs: name → SHA-256 of what it is trained from (``data``, and ``init``, ``masks`` if used).
        output: the system's folder.
    """

    recipe: Recipe
    inputs: dict[str, str]
    output: Path

    @property
    def fingerprint(self) -> str:
        return self.recipe.fingerprint(**self.inputs)

    @property
    def checkpoints(self) -> Path:
        """The folder of all runs of this system."""
        return self.output / "checkpoints"

    @property
    def folder(self) -> Path:
        """The folder of this run."""
        return self.checkpoints / self.fingerprint

    def description(self) -> dict[str, Any]:
        """What run.json holds."""
        return {
            "fingerprint": self.fingerprint,
            "recipe": self.recipe.model_dump(mode="json"),
            "inputs": self.inputs,
        }


# ---- inputs ----


def input_checksums(recipe: Recipe, data_bin: Path, init: Path | None, masks: Path | None) -> dict[str, str]:
    """Return name → SHA-256 of what a run is trained from.

    The data counts by its manifest, which holds the checksum of each of its files: of those that training
    reads. A data-bin made elsewhere has none and counts by the names and sizes of its files.

    Raises:
        TrainingError: an input is missing, or a data-bin that was taken over has changed, naming it.
    """
    if not data_bin.is_dir():
        raise TrainingError("the binarised data is missing", where=data_bin, hint="run the binarize stage")
    manifest = data_bin / MANIFEST
    if manifest.is_file():
        described = _training_part(read_json(manifest))
        _refuse_changed(described, data_bin)
        inputs = {"data": hash_of(described)}
    else:
        files = sorted(path for path in data_bin.rglob("*") if path.is_file())
        inputs = {"data": hash_of([[str(path.relative_to(data_bin)), path.stat().st_size] for path in files])}
    _check_data(recipe, data_bin)
    if init is not None:
        if not init.is_file():
            raise TrainingError(
                "the model to go on from is missing", where=init, hint="train its system first"
            )
        inputs["init"] = sha256_of(init)
    if masks is not None:
        missing = [name for name in recipe.masked_directions if not (masks / f"{name}.safetensors").is_file()]
        if missing:
            raise TrainingError(
                f"no mask for {first_few(missing)}",
                where=masks,
                hint="every direction that is trained needs one: run the masks stage for them",
            )
        inputs["masks"] = hash_of(
            {name: sha256_of(masks / f"{name}.safetensors") for name in recipe.masked_directions}
        )
    return inputs


def _training_part(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest without the held-out text, which a data-bin holds, too, and no training reads."""
    kept = dict(manifest)
    if "splits" in kept:
        kept["splits"] = {split: facts for split, facts in kept["splits"].items() if split in _TRAINED}
    if "files" in kept:
        kept["files"] = {
            name: checksum
            for name, checksum in kept["files"].items()
            if Path(name).name.partition(".")[0] in (*_TRAINED, "dict")
        }
    return kept


def _refuse_changed(manifest: Mapping[str, Any], data_bin: Path) -> None:
    """Refuse a data-bin whose links lead to other text than when it was taken over."""
    if manifest.get("source") != "data-bin":
        return
    from neuron_specialization.preprocessing.take_over import fingerprint_of

    changed = [
        name
        for name, fingerprint in sorted(manifest.get("files", {}).items())
        if not (data_bin / name).is_file() or fingerprint_of(data_bin / name) != fingerprint
    ]
    if changed:
        raise TrainingError(
            f"the binarised data is not what was taken over: {first_few(changed, 4)}",
            where=(data_bin / changed[0]).resolve(),
            cause="the data-bin that the links lead to was made again, moved or unpacked anew",
            hint=f"if that is meant, take it over again: rm {data_bin / MANIFEST}, and run the workflow",
        )


def begun_by_an_earlier_version(run: Run, data_bin: Path) -> Run:
    """The run as it was named when the held-out text counted as part of the data, if it was begun then."""
    manifest = data_bin / MANIFEST
    if run.folder.is_dir() or not manifest.is_file():
        return run
    former = replace(run, inputs={**run.inputs, "data": hash_of(read_json(manifest))})
    return former if former.folder.is_dir() else run


def _check_data(recipe: Recipe, data_bin: Path) -> None:
    """Refuse data that lacks what the recipe trains on, before anything is started."""
    folders = shard_folders(data_bin, recipe.shards)
    used = {code for direction in recipe.directions for code in direction.split("-")}
    for code in sorted(used):
        if not (folders[0] / f"dict.{code}.txt").is_file():
            raise TrainingError(
                f"the binarised data has no dictionary for {code}",
                where=folders[0] / f"dict.{code}.txt",
                hint="binarise it again with this configuration",
            )
    names = {path.name for folder in folders for path in folder.glob("*.idx")}
    for split in ("train", "valid"):
        missing = []
        for direction in recipe.directions:
            source, target = direction.split("-")
            found = any(
                {f"{split}.{pair}.{source}.idx", f"{split}.{pair}.{target}.idx"} <= names
                for pair in (direction, f"{target}-{source}")
            )
            if not found:
                missing.append(direction)
        if missing:
            raise TrainingError(
                f"the binarised data has no {split} text for {first_few(missing)}",
                where=data_bin,
                hint="binarise it again with this configuration, or take the directions out of it",
            )
        _refuse_empty(recipe, folders, split)


def _refuse_empty(recipe: Recipe, folders: Sequence[Path], split: str) -> None:
    """Refuse text without a single segment: fairseq cannot open it, and says no more than that."""
    pairs = {pair for one in recipe.directions for pair in (one, "-".join(reversed(one.split("-"))))}
    files = [
        folder / f"{split}.{pair}.{code}.bin"
        for folder in folders
        for pair in pairs
        for code in pair.split("-")
    ]
    empty = sorted(path for path in files if path.is_file() and path.stat().st_size == 0)
    if empty:
        names = sorted({path.name.split(".")[1] for path in empty})
        raise TrainingError(
            f"the {split} text of {first_few(names)} has no segment",
            where=empty[0],
            hint="give it text and binarise it again, or take its directions out of the configuration",
        )


# ---- other runs of the same system ----


def refuse_other_runs(run: Run, discard: bool) -> None:
    """Keep an unfinished run of another recipe from being forgotten, and a changed one from being resumed."""
    for folder in sorted(path for path in run.checkpoints.glob("*") if path.is_dir()):
        description = _read_description(folder)
        if description is None:
            continue
        same_folder = folder == run.folder
        differing = differences(description, run.description())
        if not differing or (not same_folder and not _is_unfinished(folder)):
            continue
        if discard:
            shutil.rmtree(folder)
            continue
        if same_folder:
            raise TrainingError(
                "the checkpoints here were made by another recipe than their run.json should say:"
                f" {'; '.join(differing)}",
                where=folder / "run.json",
                cause="run.json was edited",
                hint=f"put it right, or delete the run: rm -r {folder}",
            )
        raise TrainingError(
            f"an unfinished training of {run.recipe.system!r} was started with other settings:"
            f" {'; '.join(differing)}",
            where=folder,
            cause="the configuration or an input changed half-way",
            hint=f"change it back and run again, which resumes; or give that run up: rm -r {folder};"
            " or keep both by giving the new one another experiment: name",
        )


def _read_description(folder: Path) -> Mapping[str, Any] | None:
    path = folder / "run.json"
    if not path.is_file():
        return None
    value = read_json(path)
    return value if isinstance(value, dict) else {}


def _is_unfinished(folder: Path) -> bool:
    return not (folder / "finished.json").is_file() and any(folder.glob("checkpoint*.pt"))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Describe how two run descriptions differ, ``training.lr: 0.005 → 0.004``; inputs by name alone."""
    before, after = _flatten(old.get("recipe", {})), _flatten(new.get("recipe", {}))
    lines = [
        f"{key}: {_shown(before.get(key))} → {_shown(after.get(key))}"
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key)
    ]
    inputs = old.get("inputs", {}), new.get("inputs", {})
    names = {"data": "the binarised data", "init": "the model it goes on from", "masks": "the masks"}
    lines += [
        f"{names.get(name, name)} changed"
        for name in dict.fromkeys([*inputs[0], *inputs[1]])
        if inputs[0].get(name) != inputs[1].get(name)
    ]
    return lines


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {
            name: item
            for key, child in value.items()
            for name, item in _flatten(child, f"{prefix}.{key}" if prefix else str(key)).items()
        }
    return {prefix: value}


def _shown(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "…"
