"""What the page says beside scores: data and licence, trainings, environment, checksums of the artefacts."""

from __future__ import annotations

import csv
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neuron_specialization.errors import NeuronSpecializationError
from neuron_specialization.machine import processor, usable_cores
from neuron_specialization.reporting.table import Cell, Column, Row, Table, number_cell, text_cell
from neuron_specialization.storage.files import read_json, sha256_of

PACKAGES = (
    *("neuron-specialization", "torch", "ve-fairseq", "ctranslate2", "sentencepiece", "sacrebleu"),
    *("numpy", "scipy", "snakemake", "matplotlib"),
)
# what is listed with its checksum, kind by kind: patterns under the results folder
ARTEFACTS = {
    "Corpus and vocabulary": ("corpus/manifest.json", "testsets/*/manifest.json", "vocabulary/*.*",
                              "binarized/manifest.json"),
    "Models": ("training/*/model.pt", "training/*/model.json", "training/*/metrics.jsonl",
               "models/*/*/provenance.json", "models/*/*/model.bin"),
    "Activations and masks": ("activations*/*.safetensors", "masks/*/*.safetensors", "masks/*/overlap.json"),
    "Translations": ("translations/*/*/*.txt",),
    "Scores": ("scores/*/*/*.json", "comet/*/*/*.json", "comparisons/*/*.json"),
    "Tables and figures": ("tables/*", "figures/*.svg", "figures/*.png"),
}  # fmt: skip


def optional_json(path: Path) -> Any:
    """The content of a JSON file, None where it is not there."""
    return read_json(path) if path.is_file() else None


def corpus_table(manifest: Mapping[str, Any], binarized: Mapping[str, Any] | None) -> Table:
    """Segments of each pair: found, kept for training, validation, held out; words and pieces of training."""
    splits = manifest.get("splits", {})
    tokens = (binarized or {}).get("splits", {}).get("train", {})
    names = [name for name in ("train", "valid", "heldout") if name in splits]
    columns = [Column("pair", "text"), Column("extracted"), Column("dropped"), Column("decontaminated")]
    columns += [Column(f"{name}\nsegments") for name in names]
    columns += [Column("train words\n(both sides)"), Column("train pieces\n(both sides)")]
    rows, records = [], []
    for pair in manifest["pairs"]:
        dropped = manifest.get("dropped", {}).get(pair)
        values: list[float | None] = [
            manifest.get("extracted", {}).get(pair),
            sum(dropped.values()) if dropped else None,
            manifest.get("decontaminated", {}).get(pair),
            *(splits[name].get(pair, {}).get("segments") for name in names),
            _sum(splits.get("train", {}).get(pair, {}).get("words")),
            _sum(tokens.get(pair, {}).get("tokens")),
        ]
        rows.append(Row([text_cell(pair), *(number_cell(value, 0) for value in values)]))
        keys = [column.title.replace("\n", " ") for column in columns]
        records.append(dict(zip(keys, [pair, *values], strict=True)))
    totals = [
        sum(value for row in rows if isinstance(value := row.cells[i].value, int | float))
        for i in range(1, len(columns))
    ]
    rows.append(Row([text_cell("all"), *(number_cell(total, 0) for total in totals)], emphasis=True))
    return Table("data", "Data by pair", columns, rows, records=records)


def _sum(values: Mapping[str, int] | None) -> int | None:
    return sum(values.values()) if values else None


def training_table(folder: Path, runs: Sequence[str]) -> Table | None:
    """Each run: from what, updates, parameters, validation loss, training time."""
    rows = []
    for run in runs:
        facts = optional_json(folder / run / "model.json")
        if facts is None:
            continue
        recipe = facts.get("recipe") or {}
        training = recipe.get("training") or {}
        rows.append(
            Row(
                [
                    text_cell(run),
                    number_cell(recipe.get("seed"), 0) if recipe else number_cell(None),
                    number_cell(facts.get("parameters"), 0),
                    number_cell(facts.get("updates"), 0),
                    _tokens(training),
                    text_cell(f"{training['lr']:g}" if "lr" in training else "–"),
                    number_cell(facts.get("valid_loss"), 3),
                    text_cell((facts.get("model_sha256") or "–")[:12]),
                ]
            )
        )
    if not rows:
        return None
    columns = [Column("system", "text"), Column("seed"), Column("parameters"), Column("updates\n(published)")]
    columns += [Column("tokens an update\n(padded, at most)"), Column("peak learning\nrate")]
    columns += [Column("validation loss\n(label-smoothed)"), Column("model, sha256", "text")]
    return Table("training", "Trained models", columns, rows)


def _tokens(training: Mapping[str, Any]) -> Cell:
    if "max_tokens" not in training:
        return number_cell(None)
    return number_cell(training["max_tokens"] * training.get("micro_batches", 1), 0)


def csv_table(path: Path, name: str, caption: str, notes: Sequence[str] = ()) -> Table | None:
    """A table of another stage as it is; numbers are recognised, columns that are empty left out."""
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", newline="") as handle:
        records = list(csv.DictReader(handle))
    keys = [key for key in (records[0] if records else {}) if any(record[key] for record in records)]
    if not keys:
        return None
    numeric = {key for key in keys if all(_is_number(record[key]) for record in records if record[key])}
    columns = [Column(key.replace("_", " "), "number" if key in numeric else "text") for key in keys]
    rows = [
        Row([_csv_cell(record[key], key in numeric) for key in keys], section=record[keys[0]])
        for record in records
    ]
    return Table(name, caption, columns, rows, list(notes), records=[dict(record) for record in records])


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?([eE][+-]?\d+)?", text) is not None


def _csv_cell(text: str, numeric: bool) -> Cell:
    if not text:
        return Cell("–")
    if not numeric:
        return text_cell(text)
    value = float(text)
    places = 0 if value == int(value) else 3 if abs(value) < 10 else 1
    return number_cell(value, places)


def family_table(overlaps: Mapping[str, Mapping[str, Any]]) -> Table | None:
    """The test of family structure and the clustering, for each selection, group and side."""
    rows, records = [], []
    for selection, overlap in overlaps.items():
        for group, content in overlap["groups"].items():
            structure = content.get("structure")
            if structure is None:
                continue  # made by an older version
            for part in ("encoder", "decoder", "all"):
                test = structure["tests"].get(part)
                if test is None or test["p"] is None:
                    continue
                tree = structure["clusterings"].get(part) or {}
                how = f"all {test['arrangements']:,}" if test["exact"] else (
                    f"{test['arrangements']:,} drawn, seed {test['seed']}"
                )  # fmt: skip
                rows.append(
                    Row(
                        [
                            *(text_cell(word) for word in (selection, group, part)),
                            number_cell(len(structure["directions"]), 0),
                            number_cell(100 * test["difference"], 1, signed=True),
                            number_cell(test["p"], 4),
                            text_cell(how),
                            number_cell(
                                tree.get("adjusted_rand") if tree.get("cophenetic") is not None else None
                            ),
                            number_cell(tree.get("cophenetic")),
                        ],
                        section=f"{selection} {group}",
                    )
                )
                records.append({"selection": selection, "group": group, "layers": part, **test})
    if not rows:
        return None
    columns = [Column("selection", "text"), Column("directions", "text"), Column("layers", "text")]
    columns += [
        Column("n"),
        Column("IoU within −\nacross, points"),
        Column("p"),
        Column("arrangements", "text"),
    ]
    columns += [Column("adjusted\nRand"), Column("cophenetic\nr")]
    return Table(
        "family structure",
        "Do masks follow language families?",
        columns,
        rows,
        [
            "p: one-sided permutation test, the share of arrangements of the branches over the directions "
            "whose difference is at least as large. Adjusted Rand: the average-linkage clustering (1 − "
            "IoU), cut into as many clusters as there are branches, against the branches (1 equal, 0 "
            "chance). Cophenetic r: of the tree's distances with the distances it was made from."
        ],
        records=records,
    )


def environment() -> list[tuple[str, str]]:
    """Machine and versions of where the page was made."""
    found = [
        ("Python", platform.python_version()),
        ("System", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        ("Processor", f"{processor()}, {usable_cores()} of {os.cpu_count()} cores usable"),
    ]
    for package in PACKAGES:
        try:
            found.append((package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            continue
    revision = _revision()
    return [*found, ("Revision of the workflow", revision)] if revision else found


def _revision() -> str:
    """``git describe`` of the working folder; empty where there is no git or no repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def artefacts(folder: Path) -> dict[str, list[tuple[str, int, str]]]:
    """Kind → (path, bytes, sha256) of the files that are there, in a folder of results."""
    found = {}
    for kind, patterns in ARTEFACTS.items():
        paths = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
        # hidden files are unfinished ones
        rows = [
            (str(path.relative_to(folder)), path.stat().st_size, sha256_of(path))
            for path in paths
            if not path.name.startswith(".")
        ]
        if rows:
            found[kind] = rows
    return found


def read_overlaps(folder: Path, selections: Sequence[str]) -> dict[str, Any]:
    """Selection → overlap.json, of those that are there and can be read."""
    found = {}
    for selection in selections:
        path = folder / "masks" / selection / "overlap.json"
        try:
            found[selection] = read_json(path)
        except NeuronSpecializationError:
            continue
    return found
