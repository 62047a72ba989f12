"""Specialised training over the reference's own batches gives the reference's losses.

The oracle holds 50 batches (one direction each), the baseline they started from, the masks, and the
losses the reference implementation logged. See docs/fidelity.md.
"""

from __future__ import annotations

import csv
import math
from argparse import Namespace

import numpy as np
import pytest
import torch
from fairseq.data import Dictionary
from torch import Tensor

from neuron_specialization.fairseq_plugin.model import MaskedTransformer, masked_transformer
from neuron_specialization.fairseq_plugin.optimizer import FusedAdam
from neuron_specialization.transformer.fused_loss import projected_label_smoothed_loss
from tests.conftest import shared_file

LANGUAGES = ["en", "de", "sv", "es", "it"]
TOLERANCE = 1e-5  # relative, per batch
LR, WARMUP, SMOOTHING = 5e-4, 50, 0.1


def reference_masks() -> dict[str, dict[str, Tensor]]:
    """The oracle's masks: direction → layer → bool[512]."""
    masks: dict[str, dict[str, Tensor]] = {}
    with np.load(shared_file("oracle", "masks.npz")) as archive:
        for key in archive:
            direction, layer = key.split("/")
            stack, _, number = layer.split("_")
            masks.setdefault(direction, {})[f"{stack}.layers.{number}"] = torch.from_numpy(archive[key])
    return masks


def specialised_model(masks: dict[str, dict[str, Tensor]]) -> MaskedTransformer:
    """The oracle's baseline with the oracle's masks."""
    dictionary = Dictionary.load(str(shared_file("oracle", "data-bin", "dict.en.txt")))
    for code in LANGUAGES:
        dictionary.add_symbol(f"__{code}__")
    args = Namespace(
        encoder_embed_dim=128,
        encoder_ffn_embed_dim=512,
        encoder_layers=3,
        encoder_attention_heads=4,
        decoder_layers=3,
        decoder_attention_heads=4,
        dropout=0.0,
        share_all_embeddings=True,
        max_source_positions=256,
        max_target_positions=256,
        mask_directions=sorted(masks),
    )
    masked_transformer(args)
    task = Namespace(source_dictionary=dictionary, target_dictionary=dictionary, langs=LANGUAGES)
    model = MaskedTransformer.build_model(args, task)
    with torch.serialization.safe_globals([Namespace]):
        state = torch.load(shared_file("oracle", "baseline.pt"), weights_only=True)["model"]
    model.load_state_dict(state)
    model.set_masks(masks)
    return model


@pytest.mark.parametrize("form", ["row mask by tags", "gather by direction"])
def test_replay_of_the_reference_batches(form: str) -> None:
    masks = reference_masks()
    model = specialised_model(masks)
    optimizer = FusedAdam(model.parameters(), lr=0.0, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.0)
    with shared_file("oracle", "ns_loss.tsv").open(encoding="utf-8") as handle:
        expected = {int(row["update"]): row for row in csv.DictReader(handle, delimiter="\t")}
    with np.load(shared_file("oracle", "ns_batches.npz")) as archive:
        batches = {key: torch.from_numpy(archive[key].astype(np.int64)) for key in archive}
    worst = 0.0
    for update in range(1, len(batches) // 3 + 1):
        row = expected[update]
        source, previous, target = (
            batches[f"{update:04d}.{name}"] for name in ("src_tokens", "prev_output_tokens", "target")
        )
        number = model.mask_directions.index(row["direction"])
        assert model.directions_of(source, previous).eq(number).all()  # the tags say what the log says
        direction = number if form.startswith("gather") else None
        features, _ = model(source, source.ne(1).sum(1), previous, features_only=True, direction=direction)
        real = target.ne(1)
        loss, _ = projected_label_smoothed_loss(
            features[real], model.decoder.output_projection.weight, target[real], SMOOTHING
        )
        reference = float(row["loss_sum_nats(label_smoothed)"])
        worst = max(worst, abs(loss.item() - reference) / reference)
        assert math.isclose(loss.item(), reference, rel_tol=TOLERANCE), f"update {update}"
        optimizer.zero_grad()
        (loss / int(row["ntokens"])).backward()
        # fairseq's inverse_sqrt: update n is made with the rate set after update n-1
        step = update - 1
        rate = LR * step / WARMUP if step < WARMUP else LR * math.sqrt(WARMUP / step)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    assert update == 50
    print(f"\nlargest relative difference over 50 updates: {worst:.2e}")


def test_masks_decide_the_loss() -> None:
    """The replay can fail: under another direction's masks the first loss is another."""
    masks = reference_masks()
    masks["en-it"], masks["de-en"] = masks["de-en"], masks["en-it"]
    model = specialised_model(masks)
    with np.load(shared_file("oracle", "ns_batches.npz")) as archive:
        source, previous, target = (
            torch.from_numpy(archive[f"0001.{name}"].astype(np.int64))
            for name in ("src_tokens", "prev_output_tokens", "target")
        )
    features, _ = model(source, source.ne(1).sum(1), previous, features_only=True)
    real = target.ne(1)
    loss, _ = projected_label_smoothed_loss(
        features[real], model.decoder.output_projection.weight, target[real], SMOOTHING
    )
    assert abs(loss.item() / 7472.79443359375 - 1) > 100 * TOLERANCE


def test_mixed_batches_give_each_sentence_the_loss_of_its_own_direction() -> None:
    """Sentences of many directions in one batch, masked by their tags, against one direction at a time."""
    model = specialised_model(reference_masks()).eval()
    with np.load(shared_file("oracle", "ns_batches.npz")) as archive:
        batches = {key: torch.from_numpy(archive[key].astype(np.int64)) for key in archive}
    chosen: dict[int, list[Tensor]] = {}
    for update in range(1, 51):
        parts = [batches[f"{update:04d}.{name}"] for name in ("src_tokens", "prev_output_tokens", "target")]
        number = int(model.directions_of(*parts[:2])[0])
        chosen.setdefault(number, [part[:4] for part in parts])
    assert len(chosen) == len(model.mask_directions) == 8
    # the source is padded on the left, the target on the right
    mixed = [
        padded([row for parts in chosen.values() for row in unpadded(parts[kind])], side)
        for kind, side in enumerate(("left", "right", "right"))
    ]
    order = torch.randperm(len(mixed[0]), generator=torch.Generator().manual_seed(0))
    losses = torch.empty(len(order))
    losses[order] = sentence_losses(model, [part[order] for part in mixed])
    single = torch.cat([sentence_losses(model, parts, number) for number, parts in chosen.items()])
    worst = float(((losses - single) / single).abs().max())
    assert len(single) == 32 and worst < TOLERANCE
    print(f"\nlargest relative difference of {len(single)} sentences' losses: {worst:.2e}")
    # another direction's mask is another loss: the comparison can fail
    wrong = torch.cat([sentence_losses(model, parts, (number + 1) % 8) for number, parts in chosen.items()])
    assert float(((wrong - single) / single).abs().min()) > TOLERANCE


def unpadded(rows: Tensor) -> list[Tensor]:
    return [row[row.ne(1)] for row in rows]


def padded(rows: list[Tensor], side: str) -> Tensor:
    width = max(len(row) for row in rows)
    result = torch.full((len(rows), width), 1)
    for target, row in zip(result, rows, strict=True):
        if side == "left":
            target[width - len(row) :] = row
        else:
            target[: len(row)] = row
    return result


@torch.no_grad()
def sentence_losses(model: MaskedTransformer, parts: list[Tensor], direction: int | None = None) -> Tensor:
    """The summed negative log-likelihood of each sentence, float32[sentences]."""
    source, previous, target = parts
    features, _ = model(source, source.ne(1).sum(1), previous, features_only=True, direction=direction)
    logits = features @ model.decoder.output_projection.weight.T
    losses = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), target, ignore_index=1, reduction="none"
    )
    return losses.sum(1)
