"""Commands that read and write the formats of others: fairseq's and the reference implementation's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from neuron_specialization.cli.options import EXISTING_FILE, EXISTING_FOLDER, FILE, name_list


@click.command("import-checkpoint")
@click.option("--checkpoint", type=EXISTING_FILE, required=True, help="fairseq's, the reference's, or ours.")
@click.option("--output", type=FILE, required=True, help="The model.pt to write; .json beside it.")
@click.option("--masks", type=EXISTING_FOLDER, help="Masks of a specialised model: <direction>.safetensors.")
@click.option("--languages", callback=name_list, help="In the order of their tags, e.g. en,de,es.")
@click.option("--system", default="imported", show_default=True, help="What to call the model.")
@click.option("--allow-unsafe-pickle", is_flag=True, help="Let the file run any code it holds.")
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
def import_checkpoint(
    checkpoint: Path,
    output: Path,
    masks: Path | None,
    languages: list[str],
    system: str,
    allow_unsafe_pickle: bool,
    as_json: bool,
) -> None:
    """Turn a checkpoint of fairseq or of the reference implementation into a model.pt."""
    from neuron_specialization.checkpoints.importing import import_model

    facts = import_model(
        checkpoint,
        output,
        system=system,
        masks=masks,
        languages=languages or None,
        unsafe=allow_unsafe_pickle,
    )
    if as_json:
        click.echo(json.dumps(facts, ensure_ascii=False))
        return
    click.echo(
        f"{output}: {facts['parameters']:,} parameters, {len(facts['directions'])} directions,"
        f" from a {facts['kind']} checkpoint"
    )
    if facts["mask_files"] and masks is None:
        click.echo(
            "The checkpoint belongs to masks in other files. Import those with import-masks; then give their"
            " folder to import-checkpoint --masks or export --masks, or a direction's file to"
            " translate --engine fairseq --mask.",
            err=True,
        )


@click.command("export-checkpoint")
@click.option(
    "--checkpoint", type=EXISTING_FILE, required=True, help="A model in any format this project reads."
)
@click.option("--output", type=FILE, required=True, help="The checkpoint to write.")
@click.option(
    "--format", "target", type=click.Choice(["fairseq", "reference"]), default="fairseq", show_default=True
)
@click.option("--direction", help="fairseq: fold in this direction's mask (specialised models).")
@click.option("--mask-folder", default="masks", show_default=True, help="reference: where its masks will be.")
@click.option("--allow-unsafe-pickle", is_flag=True, help="Let the file run any code it holds.")
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
def export_checkpoint(
    checkpoint: Path,
    output: Path,
    target: str,
    direction: str | None,
    mask_folder: str,
    allow_unsafe_pickle: bool,
    as_json: bool,
) -> None:
    """Write a model as a plain fairseq checkpoint, or as the reference implementation saves it."""
    from neuron_specialization.checkpoints.checkpoint import load_checkpoint, write_model
    from neuron_specialization.checkpoints.exporting import fairseq_state, reference_state
    from neuron_specialization.storage.files import sha256_of

    model = load_checkpoint(checkpoint, unsafe=allow_unsafe_pickle)
    state = fairseq_state(model, direction) if target == "fairseq" else reference_state(model, mask_folder)
    write_model(output, state, plain=False)
    facts: dict[str, Any] = {
        "output": str(output),
        "format": target,
        "parameters": model.parameter_count,
        "sha256": sha256_of(output),
    }
    if as_json:
        click.echo(json.dumps(facts))
    else:
        click.echo(f"{output}: {target} checkpoint, {facts['parameters']:,} parameters")
