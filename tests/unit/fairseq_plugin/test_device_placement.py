"""Everything a step computes is where the model is: tried on ``meta``, a device like any but for numbers.

A tensor that was left on the CPU is an error there, as on a GPU. Not for two things, which need numbers and
are replaced: whether a batch has padding, and which places of the target are none.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator

import pytest
import torch
from torch.fx.experimental import _config as meta_settings

from neuron_specialization.fairseq_plugin.criterion import FusedLabelSmoothedCrossEntropy
from tests.unit.transformer.test_fast_transformer import DIRECTIONS, LANGUAGES, batch, build, random_masks


@pytest.fixture(autouse=True)
def padded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    truth = torch.Tensor.__bool__
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda tensor: not tensor.is_meta and truth(tensor))
    with meta_settings.patch(meta_nonzero_assume_all_nonzero=True):
        yield


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("masks", ["none", "mixed", "single-direction"])
@pytest.mark.parametrize("activation_dropout", [0.0, 0.1])
def test_a_step(masks: str, activation_dropout: float, half: bool) -> None:
    model, dictionary = build(DIRECTIONS if masks != "none" else [], activation_dropout=activation_dropout)
    if masks != "none":
        model.set_masks(random_masks(model))
    model = (model.half() if half else model.float()).to("meta")
    tags = ["en-de"] * 3 if masks == "single-direction" else ["en-de", "de-en", "nl-en"]
    source, lengths, previous, target = (tensor.to("meta") for tensor in batch(dictionary, tags))
    net_input = {"src_tokens": source, "src_lengths": lengths, "prev_output_tokens": previous}
    if masks == "single-direction":
        net_input["direction"] = 0
    criterion = FusedLabelSmoothedCrossEntropy(
        Namespace(
            target_dictionary=dictionary, source_dictionary=dictionary, langs=LANGUAGES, lang_pairs=DIRECTIONS
        ),
        sentence_avg=False,
        label_smoothing=0.1,
    )
    for training in (True, False):
        model.train(training)
        criterion.train(training)
        loss, _, log = criterion(model, {"net_input": net_input, "target": target, "ntokens": 9})
        assert loss.is_meta and all(value.is_meta for value in log.values() if torch.is_tensor(value))
        assert ("nll_en-de" in log) is not training
        if training:
            loss.backward()
    parameters = list(model.parameters())
    assert all(parameter.grad is not None and parameter.grad.is_meta for parameter in parameters)
