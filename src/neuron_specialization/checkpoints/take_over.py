"""Take over a released checkpoint as if it had been trained here: ``model.pt`` and ``model.json``.

Everything that could differ silently is compared first: the languages and the order of their tags, the
dictionary, the network. A specialised model gets the masks of its directions with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuron_specialization import __version__
from neuron_specialization.checkpoints.checkpoint import Checkpoint, load_checkpoint, plain_state, write_model
from neuron_specialization.config import Model, Recipe
from neuron_specialization.corpora.archives import archive_format, safe_extract
from neuron_specialization.errors import CheckpointError, MaskError
from neuron_specialization.storage.files import hash_of, read_json, sha256_of, write_json
from neuron_specialization.storage.layer_masks import read_all_masks
from neuron_specialization.storage.unfinished import unfinished_folder

if TYPE_CHECKING:
    from torch import Tensor

# mT-big with its optimizer state is some 4 GB
_UNPACKED = 40 << 30


def take_over_model(
    source: str | Path,
    output: str | Path,
    recipe: Recipe,
    *,
    data_bin: str | Path,
    init: str | Path | None = None,
    masks: str | Path | None = None,
    unsafe: bool = False,
) -> dict[str, Any]:
    """Write ``model.pt`` and ``model.json`` of a system from a checkpoint made elsewhere.

    Args:
        source: a checkpoint in any format checkpoints.load_checkpoint reads, or an archive that holds one.
        output: the system's folder.
        recipe: what the configuration says of the system: its languages, directions and network.
        data_bin: the experiment's data-bin, whose dictionary must be the model's.
        init: ``model.json`` of the baseline that a specialised model went on from.
        masks: folder of the masks of a specialised model, made from that baseline.
        unsafe: let the checkpoint run code while it is loaded.

    Returns:
        The content of model.json. Half-precision parameters are written in float32.

    Raises:
        CheckpointError: it cannot be read, or is not the model that the configuration describes.
        MaskError: a specialised model without masks, or masks that are not its own.
    """
    output = Path(output)
    if not Path(source).is_file():
        raise CheckpointError(
            "checkpoint is missing", where=source, hint="check systems: in the configuration"
        )
    manifest = read_json(Path(data_bin) / "manifest.json")
    inputs = {"checkpoint": sha256_of(source), "data": hash_of(manifest)}
    output.mkdir(parents=True, exist_ok=True)
    with _single_checkpoint(Path(source), output) as path:
        checkpoint = dataclasses.replace(load_checkpoint(path, unsafe=unsafe), path=Path(source))
    _check_it_is(checkpoint, recipe, int(manifest["vocabulary_size"]))
    checkpoint = dataclasses.replace(
        checkpoint,
        parameters=_single_precision(checkpoint.parameters),
        languages=recipe.languages,
        # what it was trained for and what is evaluated here may differ; later stages go by the latter
        directions=recipe.directions,
    )
    if masks is not None:
        found = read_all_masks(masks, recipe.masked_directions, shapes=checkpoint.layer_widths)
        _check_own_masks(checkpoint, found)
        checkpoint = dataclasses.replace(checkpoint, masks=found)
        # as training.input_checksums names them: export and translation hold masks against these
        inputs["masks"] = hash_of(
            {name: sha256_of(Path(masks) / f"{name}.safetensors") for name in recipe.masked_directions}
        )
    elif checkpoint.masks or checkpoint.mask_files:
        raise MaskError(
            f"{recipe.system} is a specialised model and the configuration gives it no masks",
            where=source,
            hint=f"set systems.{recipe.system}.masks (and from:, the baseline they are made of)",
        )
    if init is not None:
        inputs["init"] = str(read_json(init)["model_sha256"])
    provenance = {
        "version": __version__,
        "system": recipe.system,
        "fingerprint": recipe.fingerprint(**inputs),
        "inputs": inputs,
        "taken_over_from": Path(source).name,
    }
    write_model(output / "model.pt", plain_state(checkpoint, provenance=provenance))
    facts = {
        "system": recipe.system,
        "taken_over_from": Path(source).name,
        "fingerprint": provenance["fingerprint"],
        "inputs": inputs,
        "model_sha256": sha256_of(output / "model.pt"),
        "updates": checkpoint.updates,
        "valid_loss": checkpoint.valid_loss,
        "parameters": checkpoint.parameter_count,
        "languages": checkpoint.languages,
        "directions": recipe.directions,
    }
    write_json(output / "model.json", facts)
    return facts


@contextmanager
def _single_checkpoint(source: Path, beside: Path) -> Iterator[Path]:
    """The checkpoint: the file itself, or the only ``.pt`` of an archive, unpacked for the moment."""
    if archive_format(source) is None:
        yield source
        return
    with unfinished_folder(beside / "unpacked") as folder:
        files = safe_extract(source, folder / "content", max_bytes=_UNPACKED, max_files=10_000)
        found = [name for name in files if name.endswith(".pt")]
        if len(found) != 1:
            raise CheckpointError(
                f"the archive holds {len(found)} checkpoints: {', '.join(found[:5]) or 'no .pt file'}",
                where=source,
                hint="unpack it and set checkpoint: to the file that is meant",
            )
        yield folder / "content" / found[0]


def _single_precision(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert to float32; tensors that share memory go on sharing it."""
    converted: dict[tuple[int, tuple[int, ...]], Tensor] = {}
    result = {}
    for name, tensor in parameters.items():
        if not tensor.is_floating_point():
            result[name] = tensor
            continue
        key = (tensor.data_ptr(), tuple(tensor.shape))
        if key not in converted:
            converted[key] = tensor.float()
        result[name] = converted[key]
    return result


def _check_it_is(checkpoint: Checkpoint, recipe: Recipe, dictionary: int) -> None:
    """Compare the checkpoint with the configuration and the data."""
    if checkpoint.languages and checkpoint.languages != recipe.languages:
        same = sorted(checkpoint.languages) == sorted(recipe.languages)
        raise CheckpointError(
            "the model's languages are not the configuration's" + (" in this order" if same else ""),
            where=checkpoint.path,
            cause="the order of languages: numbers their tags" if same else None,
            hint=f"set languages: [{', '.join(checkpoint.languages)}]; directions: chooses what is evaluated",
        )
    expected = dictionary + len(recipe.languages)
    if checkpoint.vocabulary_size != expected:
        raise CheckpointError(
            f"the model knows {checkpoint.vocabulary_size} symbols; the data's dictionary and "
            f"{len(recipe.languages)} language tags are {expected}",
            where=checkpoint.path,
            cause="the model was trained with another dictionary",
        )
    model = Model(
        encoder_layers=checkpoint.encoder_layers,
        decoder_layers=checkpoint.decoder_layers,
        d_model=checkpoint.d_model,
        d_ff=checkpoint.d_ff,
        heads=checkpoint.heads,
        embeddings=checkpoint.embeddings,
        max_positions=int(checkpoint.settings["max_source_positions"]),
    )
    differing = [
        f"model.{key}: {getattr(recipe.model, key)} in the configuration, {value} in the checkpoint"
        for key, value in model.model_dump().items()
        if getattr(recipe.model, key) != value
    ]
    if differing:
        raise CheckpointError(
            "the checkpoint is another network:\n" + "\n".join(f"  - {line}" for line in differing),
            where=checkpoint.path,
            hint="correct model: in the configuration",
        )


def _check_own_masks(checkpoint: Checkpoint, found: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Refuse masks that are not those the checkpoint holds itself (a model.pt of this project does)."""
    for direction, layers in checkpoint.masks.items():
        for layer, mask in layers.items():
            if direction in found and not bool((found[direction][layer] == mask).all()):
                raise MaskError(
                    f"the masks are not those the model was trained with: {direction}, {layer}",
                    where=checkpoint.path,
                )
