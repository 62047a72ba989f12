"""The data commands: fetch, corpus, testset, vocabulary, binarize."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from neuron_specialization.cli.options import PATH, direction_list, name_list
from neuron_specialization.cli.printing import print_table
from neuron_specialization.config import parse_spec
from neuron_specialization.directions import Direction


@click.command()
@click.argument("name")
@click.option("--output", type=PATH, required=True, help="The file to write.")
@click.option("--mirror", metavar="DIR_OR_URL", help="Where to look first; empty: nowhere.")
def fetch(name: str, output: Path, mirror: str | None) -> None:
    """Download NAME of data/catalogue.tsv and verify it."""
    from neuron_specialization.corpora.downloads import fetch as fetch_file

    fetch_file(name, output, mirror=mirror or None)


@click.command()
@click.option("--source", type=click.Choice(["homeassistant", "local"]), required=True)
@click.option("--input", "path", type=PATH, required=True, help="The wheel, or the folder of plain text.")
@click.option(
    "--spec", metavar="JSON", required=True, help="A CorpusSpec: languages, pairs, caps, sizes, cleaning."
)
@click.option("--output", type=PATH, required=True, help="The corpus folder.")
def corpus(source: Any, path: Path, spec: str, output: Path) -> None:
    """Extract, clean, hold out, decontaminate and cap the text of all language pairs."""
    from neuron_specialization.corpora.prepare import prepare_corpus
    from neuron_specialization.corpora.spec import CorpusSpec

    manifest = prepare_corpus(source, path, parse_spec(CorpusSpec, spec, "corpus spec"), output)
    reasons = list(next(iter(manifest["dropped"].values())))
    rows: list[list[object]] = [
        [
            pair,
            manifest["extracted"][pair],
            *(manifest["dropped"][pair][reason] for reason in reasons),
            manifest["decontaminated"][pair],
            manifest["capped"][pair],
            *(manifest["splits"][split][pair]["segments"] for split in ("train", "valid", "heldout")),
        ]
        for pair in manifest["pairs"]
    ]
    header = ["pair", "extracted", *reasons, "decontaminated", "over_cap", "train", "valid", "heldout"]
    print_table(header, rows)
    if shared := _counted(manifest["valid_in_heldout"]):
        click.echo(f"warning: valid segments with text that is also in the test set: {shared}", err=True)


def _counted(counts: Mapping[str, int]) -> str:
    """``de-en 3, en-fr 1``: what was counted, without what was not met."""
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count)


@click.command()
@click.option("--source", type=click.Choice(["flores200", "folder", "data-bin"]), required=True)
@click.option("--input", "path", type=PATH, required=True, help="The folder with the test set.")
@click.option(
    "--splits",
    callback=name_list,
    required=True,
    help="Comma-separated, put one after another in this order: dev,devtest.",
)
@click.option("--directions", callback=direction_list, required=True, help="What is translated: en-de,de-en.")
@click.option("--corpus", type=PATH, help="A corpus folder: count what is in its training text.")
@click.option("--output", type=PATH, required=True, help="The test set's folder.")
def testset(
    source: Any, path: Path, splits: list[str], directions: list[str], corpus: Path | None, output: Path
) -> None:
    """Bring a multi-parallel test set into the layout that translation and scoring read."""
    wanted = [Direction.parse(name) for name in directions]
    if source == "data-bin":
        from neuron_specialization.preprocessing.take_over import testset_from_data_bin

        manifest = testset_from_data_bin(path, splits, wanted, output)
    else:
        from neuron_specialization.corpora.testsets import prepare_testset

        manifest = prepare_testset(source, path, splits, wanted, output, corpus)
    segments = manifest["segments"]
    if isinstance(segments, dict):
        segments = sum(segments.values())
    click.echo(f"{segments} segments in {len(manifest['languages'])} languages: {', '.join(splits)}")
    if not_nfc := _counted(manifest.get("not_nfc", {})):
        click.echo(
            f"warning: lines that are not in Unicode's NFC: {not_nfc}. Translations are, so that equal text "
            "counts as different and scores are too low. Normalise the files, unless they are published so",
            err=True,
        )
    if shared := _counted(manifest.get("in_training_text", {})):
        click.echo(
            f"warning: segments with a side that is in the training text: {shared}. "
            "corpus.keep_out removes them from there, which trains anew",
            err=True,
        )


@click.command()
@click.option("--corpus", "corpus_folder", type=PATH, required=True, help="The corpus folder.")
@click.option(
    "--spec", metavar="JSON", required=True, help="A VocabularySpec: size, model type, temperature."
)
@click.option("--seed", type=int, help="Overrides the spec's seed.")
@click.option("--output", type=PATH, required=True, help="Gets spm.model and dict.txt.")
def vocabulary(corpus_folder: Path, spec: str, seed: int | None, output: Path) -> None:
    """Train the joint SentencePiece vocabulary on the training text."""
    from neuron_specialization.preprocessing.vocabulary import VocabularySpec, train_vocabulary

    parsed = parse_spec(VocabularySpec, spec, "vocabulary spec")
    if seed is not None:
        parsed = parsed.model_copy(update={"seed": seed})
    made = train_vocabulary(corpus_folder, parsed, output)
    click.echo(f"{made['size']} entries from {made['sentences']} sentences, {made['characters']} characters")


@click.command()
@click.option("--corpus", "corpus_folder", type=PATH, required=True, help="The corpus folder.")
@click.option("--vocabulary", "vocabulary_folder", type=PATH, required=True, help="spm.model and dict.txt.")
@click.option("--output", type=PATH, required=True, help="The fairseq data-bin folder.")
def binarize(corpus_folder: Path, vocabulary_folder: Path, output: Path) -> None:
    """Encode all splits and pairs into fairseq's memory-mapped format."""
    from neuron_specialization.preprocessing.binarize import binarize_corpus

    manifest = binarize_corpus(corpus_folder, vocabulary_folder, output)
    rows: list[list[object]] = []
    for pair in manifest["pairs"]:
        for split, pairs in manifest["splits"].items():
            counts = pairs[pair]
            tokens = sum(counts["tokens"].values())
            rows.append([pair, split, counts["segments"], tokens, sum(counts["unknown"].values())])
    print_table(["pair", "split", "segments", "tokens", "unknown"], rows)
