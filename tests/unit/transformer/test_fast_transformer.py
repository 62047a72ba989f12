"""The quick forward pass computes what fairseq computes: outputs and gradients, masked or not."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import pytest
import torch
from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss
from fairseq.data import Dictionary
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from neuron_specialization.errors import MaskError
from neuron_specialization.fairseq_plugin.feed_forward import mixed_parts, need_order
from neuron_specialization.fairseq_plugin.model import MaskedTransformer, masked_transformer
from neuron_specialization.transformer.fused_loss import projected_label_smoothed_loss

LANGUAGES = ["en", "de", "nl"]
DIRECTIONS = ["en-de", "de-en", "nl-en"]


def build(directions: list[str], **settings: object) -> tuple[MaskedTransformer, Dictionary]:
    dictionary = Dictionary()
    for i in range(40):
        dictionary.add_symbol(f"w{i}")
    for code in LANGUAGES:
        dictionary.add_symbol(f"__{code}__")
    args = Namespace(
        encoder_embed_dim=16,
        encoder_ffn_embed_dim=24,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_layers=2,
        decoder_layers=3,
        dropout=0.0,
        share_all_embeddings=True,
        mask_directions=directions,
        **settings,
    )
    masked_transformer(args)
    torch.manual_seed(1)
    model = MaskedTransformer.build_model(
        args, Namespace(source_dictionary=dictionary, target_dictionary=dictionary, langs=LANGUAGES)
    ).double()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # biases are zero at first: give them a say
    return model, dictionary


def batch(dictionary: Dictionary, directions: list[str]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pad, eos = dictionary.pad(), dictionary.eos()
    source = torch.full((len(directions), 9), pad)
    target = torch.full((len(directions), 8), pad)
    previous = target.clone()
    for row, direction in enumerate(directions):
        s, t = direction.split("-")
        words = torch.randint(4, 44, (3 + 2 * (row % 3),), generator=generator)
        line = [dictionary.index(f"__{s}__"), *words.tolist(), eos]
        source[row, 9 - len(line) :] = torch.tensor(line)
        words = torch.randint(4, 44, (2 + row % 4,), generator=generator)
        line = [dictionary.index(f"__{t}__"), *words.tolist(), eos]
        target[row, : len(line)] = torch.tensor(line)
        previous[row, : len(line)] = torch.tensor([eos, *line[:-1]])
    return source, source.ne(pad).sum(1), previous, target


def random_masks(model: MaskedTransformer) -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return {
        direction: {
            name: torch.rand(fc1.out_features, generator=generator) < 0.6
            for name, fc1 in model.masked_layers().items()
        }
        for direction in model.mask_directions
    }


def gradients(model: MaskedTransformer) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("masked", [False, True])
def test_fast_equals_stock(masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # fairseq rounds cross-attention weights to float32 even in a float64 model; not here, to compare tightly
    monkeypatch.setattr("fairseq.utils.softmax", lambda x, dim, onnx_trace=False: torch.softmax(x, dim))
    model, dictionary = build(DIRECTIONS if masked else [])
    if masked:
        model.set_masks(random_masks(model))
    source, lengths, previous, target = batch(dictionary, ["en-de", "de-en", "nl-en", "de-en", "en-de"])
    real = target.ne(dictionary.pad())
    results = {}
    for implementation in ("stock", "fast"):
        model.implementation = implementation
        logits, _ = model(source, lengths, previous)
        torch.log_softmax(logits, -1)[real].gather(1, target[real][:, None]).sum().backward()
        results[implementation] = logits[real].detach(), gradients(model)
    assert torch.allclose(results["stock"][0], results["fast"][0], rtol=0, atol=1e-12)
    assert results["stock"][1].keys() == results["fast"][1].keys()
    for name, gradient in results["stock"][1].items():
        assert torch.allclose(gradient, results["fast"][1][name], rtol=0, atol=1e-11), name


@pytest.mark.parametrize("apart", [False, True])
def test_mixed_batch_equals_one_direction_at_a_time(apart: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the directions' sentences are computed apart, sorted, or together under a mask each."""
    monkeypatch.setattr("neuron_specialization.transformer.ffn_plan.WORTHWHILE", 1e9 if apart else 0.0)
    model, dictionary = build(DIRECTIONS)
    model.set_masks(random_masks(model))
    tags = ["en-de", "de-en", "nl-en", "de-en", "en-de", "nl-en"]
    source, lengths, previous, _ = batch(dictionary, tags)
    mixed, _ = model(source, lengths, previous)
    parts = mixed_parts({model.encoder.layers[0].fc1: 9}, torch.tensor([0, 1, 0]), 8, bfloat16=False)
    assert need_order(parts) == apart
    for direction in DIRECTIONS:
        rows = [i for i, tag in enumerate(tags) if tag == direction]
        # the gather form, told the direction; and the fixed direction of translation
        number = DIRECTIONS.index(direction)
        alone, _ = model(source[rows], lengths[rows], previous[rows], direction=number)
        real = previous[rows].ne(dictionary.pad())
        assert torch.allclose(mixed[rows][real], alone[real], rtol=0, atol=1e-12)
        model.set_direction(direction)
        fixed, _ = model(source[rows], lengths[rows], previous[rows])
        assert torch.allclose(fixed[real], alone[real], rtol=0, atol=1e-12)
        model.set_direction(None)


def test_masks_change_the_output_and_rows_get_no_gradient() -> None:
    model, dictionary = build(["de-en"])
    source, lengths, previous, target = batch(dictionary, ["de-en", "de-en"])
    dense, _ = model(source, lengths, previous)
    masks = random_masks(model)
    model.set_masks(masks)
    logits, _ = model(source, lengths, previous)
    assert not torch.allclose(dense, logits)
    logits[target.ne(dictionary.pad())].square().sum().backward()
    for name, fc1 in model.masked_layers().items():
        mask = masks["de-en"][name]
        assert fc1.weight.grad is not None and fc1.bias.grad is not None
        assert torch.count_nonzero(fc1.weight.grad[~mask]) == 0
        assert torch.count_nonzero(fc1.weight.grad[mask]) > 0
        # the bias of a masked neuron stays alive: where it is positive it feeds a constant
        fires = ~mask & (fc1.bias > 0)
        assert torch.count_nonzero(fc1.bias.grad[fires]) == int(fires.sum())


def test_fused_loss_equals_fairseq() -> None:
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(333, 8, dtype=torch.float64, generator=generator).requires_grad_()
    weight = torch.randn(57, 8, dtype=torch.float64, generator=generator).requires_grad_()
    target = torch.randint(0, 57, (333,), generator=generator)
    loss, nll = projected_label_smoothed_loss(features, weight, target, 0.1)
    (3 * loss).backward()
    ours = features.grad, weight.grad
    features.grad = weight.grad = None
    expected, expected_nll = label_smoothed_nll_loss(torch.log_softmax(features @ weight.t(), 1), target, 0.1)
    (3 * expected).backward()
    assert torch.allclose(loss, expected, rtol=1e-13)
    assert torch.allclose(nll, expected_nll, rtol=1e-13)
    assert torch.allclose(ours[0], features.grad, rtol=0, atol=1e-12)
    assert torch.allclose(ours[1], weight.grad, rtol=0, atol=1e-12)


def test_on_a_gpu_the_loss_moves_no_more_memory_than_fairseqs() -> None:
    """Counted from the operations on the meta device: an update of configs/ec30.yaml, 5,000 tokens."""

    class Traffic(TorchDispatchMode):
        moved = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            name = function.__name__
            if not any(
                view in name for view in ("view", "slice", "squeeze", "expand", "t.default", "detach")
            ):
                tensors = [one for one in tree_leaves((args, kwargs, result)) if isinstance(one, Tensor)]
                self.moved += sum(one.numel() * one.element_size() for one in tensors)
            return result

    def tensors() -> tuple[Tensor, Tensor, Tensor]:
        shape = {"dtype": torch.half, "device": "meta", "requires_grad": True}
        return (
            torch.empty(5_000, 1024, **shape),
            torch.empty(64_000, 1024, **shape),
            torch.empty(5_000, dtype=torch.long, device="meta"),
        )

    with Traffic() as ours:
        projected_label_smoothed_loss(*tensors(), 0.1)[0].backward(torch.ones((), device="meta"))
    with Traffic() as theirs:
        features, weight, target = tensors()
        logs = torch.log_softmax(features @ weight.t(), -1, dtype=torch.float32)
        label_smoothed_nll_loss(logs, target, 0.1)[0].backward(torch.ones((), device="meta"))
    assert ours.moved < 1.1 * theirs.moved


def test_a_validation_computes_no_gradients() -> None:
    class Operations(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names.append(function.__name__)
            return function(*args, **(kwargs or {}))

    features, weight = torch.randn(30, 8), torch.randn(57, 8, requires_grad=True)
    products, losses = [], []
    for wanted in (True, False):
        names: list[str] = []
        with torch.set_grad_enabled(wanted), Operations():
            losses.append(projected_label_smoothed_loss(features, weight, torch.arange(30), 0.1))
        products.append(sum("mm" in name for name in names))
    assert products == [3, 1]
    assert torch.equal(losses[0][0], losses[1][0]) and not losses[1][0].requires_grad


def test_a_model_keeps_its_masks_whatever_it_starts_from() -> None:
    """A specialised model under other masks, of other directions even. Without its own it takes them."""
    other, _ = build(DIRECTIONS[:2])
    other.set_masks({name: random_masks(other)[name] for name in DIRECTIONS[:2]})
    model, _ = build(DIRECTIONS)
    own = random_masks(model)
    own = {name: {layer: ~mask for layer, mask in own[name].items()} for name in own}
    model.set_masks(own)
    model.load_state_dict(other.state_dict())
    for layer, fc1 in model.masked_layers().items():
        assert fc1.masks.tolist() == [own[name][layer].tolist() for name in DIRECTIONS]
        assert torch.equal(fc1.weight, other.masked_layers()[layer].weight)
    told, _ = build(DIRECTIONS[:2])  # as for translation: the checkpoint says which
    told.load_state_dict(other.state_dict())
    for layer, fc1 in told.masked_layers().items():
        assert torch.equal(fc1.masks, other.masked_layers()[layer].masks)


@pytest.mark.parametrize("implementation", ["fast", "stock"])
def test_a_sentence_of_no_known_direction_is_refused(implementation: str) -> None:
    model, dictionary = build(DIRECTIONS[:2], implementation=implementation)
    source, lengths, previous, _ = batch(dictionary, ["en-de", "nl-en"])
    with pytest.raises(MaskError, match=r"no mask for(.|\n)*en-de, de-en"):
        model(source, lengths, previous)


def test_missing_or_foreign_masks_are_refused() -> None:
    model, _ = build(DIRECTIONS)
    masks = random_masks(model)
    with pytest.raises(MaskError, match="nl-en"):
        model.set_masks({direction: masks[direction] for direction in DIRECTIONS[:2]})
    del masks["de-en"]["decoder.layers.2"]
    with pytest.raises(MaskError, match=r"decoder\.layers\.2"):
        model.set_masks(masks)
    with pytest.raises(MaskError, match="fr-en"):
        model.set_direction("fr-en")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("encoder_normalize_before", False),
        ("decoder_normalize_before", False),
        ("activation_fn", "gelu"),
        ("layernorm_embedding", True),
        ("no_token_positional_embeddings", True),
        ("encoder_layerdrop", 0.1),
        ("decoder_layerdrop", 0.1),
        ("no_cross_attention", True),
        ("cross_self_attention", True),
        ("no_decoder_final_norm", True),
        ("relu_dropout", 0.1),
        ("decoder_output_dim", 8),
    ],
)
def test_uncovered_architecture_runs_on_fairseq_code(setting: str, value: object) -> None:
    model, _ = build([], **{setting: value})
    assert model.implementation == "stock"
    assert build([])[0].implementation == "fast"


@pytest.mark.parametrize("told", [True, False])
def test_a_dense_mask_trains_as_no_mask(told: bool) -> None:
    """Five updates with masks of ones, by direction or mixed: the losses of the model without masks."""
    losses = []
    for directions in (DIRECTIONS, []):
        model, dictionary = build(directions)
        tags = ["de-en"] * 3 if told else ["nl-en", "de-en", "en-de"]
        source, lengths, previous, target = batch(dictionary, tags)
        extra = {"direction": 1} if told and directions else {}
        real = target.ne(dictionary.pad())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        found = []
        for _ in range(5):
            logits, _ = model(source, lengths, previous, **extra)
            loss = -torch.log_softmax(logits, -1)[real].gather(1, target[real][:, None]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(float(loss.detach()))
        losses.append(found)
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert losses[0][-1] < losses[0][0]


@pytest.mark.parametrize("told", [True, False])
def test_autocast_and_activation_dropout_take_the_plain_forms(told: bool) -> None:
    """Close to full precision under autocast, and gradients for all parameters either way."""
    model, dictionary = build(DIRECTIONS, activation_dropout=0.5)
    model.float().set_masks(random_masks(model))
    source, lengths, previous, target = batch(
        dictionary, ["de-en"] * 3 if told else ["nl-en", "de-en", "en-de"]
    )
    extra = {"direction": 1} if told else {}
    real = target.ne(dictionary.pad())
    exact, _ = model.eval()(source, lengths, previous, **extra)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, _ = model(source, lengths, previous, **extra)
    assert (rounded[real].float() - exact[real]).norm() < 0.05 * exact[real].norm()
    assert not torch.equal(rounded.float(), exact)
    rounded[real].float().square().sum().backward()
    named = dict(model.named_parameters())
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in named.values())
    dropped, _ = model.train()(source, lengths, previous, **extra)
    assert not torch.allclose(dropped[real], exact[real])
