"""Commands that take over what others made: archives, data-bins, released checkpoints."""

from __future__ import annotations

from pathlib import Path

import click

from neuron_specialization.cli.options import PATH, name_list


@click.command()
@click.option("--archive", type=PATH, required=True, help="tar, tar.gz, tar.bz2, tar.xz or zip.")
@click.option("--output", type=PATH, required=True, help="The folder to make.")
@click.option(
    "--max-gigabytes", type=click.IntRange(1), default=64, show_default=True, help="Refused beyond."
)
@click.option("--content", type=PATH, help="JSON file that gets a checksum of what was unpacked.")
def unpack(archive: Path, output: Path, max_gigabytes: int, content: Path | None) -> None:
    """Unpack an archive safely: nothing outside the folder, no devices, no bombs, whole or not at all."""
    from neuron_specialization.corpora.archives import safe_extract
    from neuron_specialization.preprocessing.take_over import content_of
    from neuron_specialization.storage.files import write_json

    files = safe_extract(archive, output, max_bytes=max_gigabytes * 10**9)
    if content is not None:
        write_json(content, content_of(output, files))
    click.echo(f"{len(files)} files in {output}")


@click.command("take-over-data-bin")
@click.option("--input", "source", type=PATH, required=True, help="The data-bin, or a folder that holds it.")
@click.option("--languages", callback=name_list, required=True, help="All of them, comma-separated.")
@click.option("--pairs", callback=name_list, required=True, help="Unordered, alphabetical: de-en,en-fr.")
@click.option("--shards", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--splits",
    callback=name_list,
    default="train,valid,test",
    show_default=True,
    help="What every pair must have.",
)
@click.option("--segmentation", type=PATH, help="The SentencePiece model of the text, where it is known.")
@click.option("--vocabulary", type=PATH, required=True, help="Folder that gets dict.txt (and spm.model).")
@click.option(
    "--output", type=PATH, required=True, help="The experiment's data-bin: links and manifest.json."
)
def take_over_data_bin(
    source: Path,
    languages: list[str],
    pairs: list[str],
    shards: int,
    splits: list[str],
    segmentation: Path | None,
    vocabulary: Path,
    output: Path,
) -> None:
    """Check a data-bin that fairseq-preprocess made elsewhere, and link it into an experiment."""
    from neuron_specialization.preprocessing.take_over import take_over

    manifest = take_over(
        source,
        output,
        languages=languages,
        pairs=pairs,
        shards=shards,
        splits=splits,
        vocabulary=vocabulary,
        segmentation=segmentation,
    )
    for split, counts in manifest["splits"].items():
        segments = sum(pair["segments"] for pair in counts.values())
        tokens = sum(sum(pair["tokens"].values()) for pair in counts.values())
        click.echo(f"{split}: {len(counts)} pairs, {segments:,} segments, {tokens:,} tokens")


@click.command("take-over-model")
@click.option(
    "--checkpoint", type=PATH, required=True, help="The released file, or an archive that holds it."
)
@click.option(
    "--recipe", "recipe_json", metavar="JSON", required=True, help="What it must be (config.Recipe)."
)
@click.option("--data-bin", type=PATH, required=True, help="The experiment's data-bin, with manifest.json.")
@click.option("--init", type=PATH, help="model.json of the baseline a specialised model went on from.")
@click.option("--masks", type=PATH, help="Folder of the masks of a specialised model.")
@click.option("--output", type=PATH, required=True, help="The system's folder: gets model.pt and model.json.")
@click.option("--allow-unsafe-pickle", is_flag=True, help="Let --checkpoint run code when it is loaded.")
def take_over_model(
    checkpoint: Path,
    recipe_json: str,
    data_bin: Path,
    init: Path | None,
    masks: Path | None,
    output: Path,
    allow_unsafe_pickle: bool,
) -> None:
    """Take over a released checkpoint as a trained system."""
    from neuron_specialization.checkpoints.take_over import take_over_model as take_over
    from neuron_specialization.config import parse_recipe

    facts = take_over(
        checkpoint,
        output,
        parse_recipe(recipe_json),
        data_bin=data_bin,
        init=init,
        masks=masks,
        unsafe=allow_unsafe_pickle,
    )
    click.echo(
        f"{facts['system']}: {facts['parameters']:,} parameters, {facts['updates']} updates, taken over"
    )
