"""Model cards (``README.md``): made from a model's provenance, never typed, so that they cannot disagree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from neuron_specialization.errors import first_few

CITATION = (
    "Shaomu Tan, Di Wu and Christof Monz: Neuron Specialization: Leveraging Intrinsic Task Modularity for"
    " Multilingual Machine Translation. EMNLP 2024."
)


_FOR_FAIRSEQ = (
    " This is a plain fairseq checkpoint of the dense shape: the weight rows of masked neurons are zero, so"
    " that they emit the constant relu(b1) that they emit under the mask."
)
_USE_FAIRSEQ = """## Use

Stock fairseq opens `checkpoint.pt` without a user-dir; the dictionaries are in this folder. The task
(`translation_multi_simple_epoch`), the languages and their tags are in the checkpoint; the text is segmented
with `spm.model`. fairseq pickles its arguments: under torch 2.6 or later it opens any checkpoint, this one
included, with `TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1` in the environment."""


def model_card(
    provenance: Mapping[str, Any], *, library: Literal["ctranslate2", "fairseq"] = "ctranslate2"
) -> str:
    """Return the card of a model directory (Markdown).

    Args:
        provenance: of a model directory (provenance.model_provenance).
        library: what opens it.
    """
    directions = provenance["directions"]
    scores = provenance.get("scores") or {}
    parts = [
        _front_matter(provenance["languages"], library),
        f"# {_title(provenance)}: {first_few(directions, 6)}",
        _what(provenance)
        + f" Weights are stored as {provenance['quantization']}."
        + (_FOR_FAIRSEQ if library == "fairseq" else " It runs on CTranslate2, without fairseq or torch."),
        _neurons(provenance["d_ff"], {directions[0]: provenance["neurons"]}, provenance.get("mask")),
        *_common(provenance),
        *_scores(scores),
        _use("MODEL", directions[0], provenance["input_format"])
        if library == "ctranslate2"
        else _USE_FAIRSEQ,
        _origin(provenance, {directions[0]: provenance.get("mask")}),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def bundle_card(bundle: Mapping[str, Any]) -> str:
    """Return the card of a bundle (Markdown).

    Args:
        bundle: what ``bundle.json`` holds (bundle.write_bundle).
    """
    directions = bundle["directions"]
    models = bundle["models"]
    masked = any(model["mask"] for model in models.values())
    neurons = {name: model["neurons"] for name, model in models.items()}
    parts = [
        _front_matter(bundle["languages"], "ctranslate2"),
        f"# {_title(bundle)}: {len(directions)} directions in one bundle",
        _what(bundle)
        + f" The shared weights are stored once, as {bundle['dtype']}"
        + (
            ", with one mask of a bit a neuron for each direction. A direction's model is made from them when"
            " it is first used: narrowed to its neurons, which changes nothing of what it computes."
            if masked
            else "; one model translates all directions."
        ),
        f"## Directions\n\n{first_few(directions, 200)}",
        _neurons(bundle["d_ff"], neurons, next((m["mask"] for m in models.values()), None)),
        *_common(bundle),
        *_scores(bundle.get("scores") or {}),
        _use("BUNDLE", directions[0], bundle["input_format"]),
        _origin(bundle, {name: model["mask"] for name, model in models.items()}),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(languages: Sequence[str], library: str) -> str:
    names = "\n".join(f"- {code!r}" for code in languages)  # 'no' is a language here, not a boolean
    return f"---\npipeline_tag: translation\nlibrary_name: {library}\nlanguage:\n{names}\n---"


def _title(facts: Mapping[str, Any]) -> str:
    return f"Translation model {facts['system'] or 'of unknown name'}"


def _what(facts: Mapping[str, Any]) -> str:
    recipe = facts.get("training")
    kind = "A Transformer for multilingual translation"
    if recipe:
        model = recipe["model"]
        kind += (
            f" ({model['encoder_layers']} + {model['decoder_layers']} layers, d_model {model['d_model']},"
            f" d_ff {model['d_ff']}, {model['heads']} heads, {model['embeddings']} embeddings)"
        )
    kind += f" with {facts['checkpoint']['parameters']:,} parameters"
    if not _masked(facts):
        return f"{kind}; dense, all directions use all of it."
    return (
        f"{kind}, made by *Neuron Specialization*: each direction uses its own part of the neurons of every"
        " feed-forward layer."
    )


def _masked(facts: Mapping[str, Any]) -> bool:
    models = facts.get("models")
    return any(one["mask"] for one in models.values()) if models else facts.get("mask") is not None


def _neurons(
    widths: Mapping[str, int], neurons: Mapping[str, Mapping[str, int]], mask: Mapping[str, Any] | None
) -> str:
    if mask is None:
        return ""
    lines = [
        "## Neurons",
        "",
        "Share of the feed-forward neurons in use"
        + (f" (k = {mask['k']} % of a layer's cumulated activations)" if "k" in mask else "")
        + ", per layer:",
        "",
        "| direction | " + " | ".join(layer.replace("coder.layers.", "c ") for layer in widths) + " | all |",
        "|---" + "|--:" * (len(widths) + 1) + "|",
    ]
    for direction, kept in neurons.items():
        shares = [100 * kept[layer] / width for layer, width in widths.items()]
        total = 100 * sum(kept.values()) / sum(widths.values())
        lines.append(
            f"| {direction} | " + " | ".join(f"{share:.1f} %" for share in shares) + f" | {total:.1f} % |"
        )
    return "\n".join(lines)


def _common(facts: Mapping[str, Any]) -> list[str]:
    return [_training(facts), _data(facts)]


def _training(facts: Mapping[str, Any]) -> str:
    recipe, checkpoint = facts.get("training"), facts["checkpoint"]
    if not recipe:
        updates = checkpoint.get("updates")
        known = f"{updates:,} updates were made; " if updates else ""
        return f"## Training\n\n{known}the checkpoint ({checkpoint['kind']}) does not hold its recipe."
    training = recipe["training"]
    inputs = checkpoint.get("inputs") or {}
    start = (
        "It went on from a model trained on all directions"
        + (", each direction confined to its neurons" if inputs.get("masks") else ", without masks")
        if inputs.get("init")
        else "It was trained from scratch"
    )
    text = (
        f"{start}: {training['max_updates']:,} updates of"
        f" {training['max_tokens'] * training['micro_batches']:,} tokens,"
        f" {_optimizer(training)} after {training['warmup_updates']:,} updates of warm-up"
        f" ({training['scheduler']} schedule), label smoothing {training['label_smoothing']},"
        f" dropout {training['dropout']},"
        f" directions sampled at temperature {training['sampling_temperature']}, {training['precision']},"
        f" seed {recipe['seed']}."
    )
    if checkpoint.get("updates") and checkpoint["updates"] != training["max_updates"]:
        text += f" The weights are those after {checkpoint['updates']:,} updates."
    return f"## Training\n\n{text}"


def _optimizer(training: Mapping[str, Any]) -> str:
    """The optimizer and its learning rate. Recipes leave the keys of Muon out at their defaults."""
    adam = f"Adam (β {training['adam_betas'][0]}, {training['adam_betas'][1]})"
    rate = f"learning rate {training['lr']}"
    if training.get("optimizer", "adam") == "adam":
        return f"{adam}, {rate}"
    ratio = training.get("muon_lr_ratio", 1.0)
    of_matrices = "" if ratio == 1 else f" (of those matrices {training['lr'] * ratio:g})"
    return f"Muon for the layers' matrices and {adam} for all else, {rate}{of_matrices}"


def _data(facts: Mapping[str, Any]) -> str:
    data = facts.get("data")
    if not data:
        return (
            "## Data and licence\n\nNot recorded: the model was exported without its corpus's manifest"
            " (`export --manifest`). Ask whoever made it before you pass it on."
        )
    lines = [
        "## Data and licence",
        "",
        f"- Source: {data.get('source', 'not recorded')}",
        f"- Licence of the data: {data.get('licence') or 'not recorded'}",
    ]
    if data.get("citation"):
        lines.append(f"- Citation: {data['citation']}")
    if data.get("training_segments"):
        lines.append(f"- Training pairs of segments: {data['training_segments']:,}")
    lines.append(
        "- The weights were derived from these data: their licence applies to what you do with them."
    )
    return "\n".join(lines)


def _scores(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    if not scores:
        return []
    metrics = sorted({m for tests in scores.values() for values in tests.values() for m in values})
    lines = [
        "## Scores",
        "",
        "| direction | test set | " + " | ".join(metrics) + " |",
        "|---|---" + "|--:" * len(metrics) + "|",
    ]
    for direction, tests in scores.items():
        for test, values in tests.items():
            found = [f"{values[metric]:.2f}" if metric in values else "–" for metric in metrics]
            lines.append(f"| {direction} | {test} | " + " | ".join(found) + " |")
    return ["\n".join(lines)]


def _use(place: str, direction: str, input_format: str) -> str:
    option = " --input-format pieces" if input_format == "pieces" else ""
    argument = ', input_format="pieces"' if option else ""
    return f"""## Use

With `neuron-specialization` installed, {place} being this folder:

```sh
python -m neuron_specialization translate --model {place} --direction {direction}{option} < in.txt > out.txt
```

```python
from neuron_specialization import Translator

Translator.load("{place}"{argument}).translate(["…"], direction="{direction}")
```"""


def _origin(facts: Mapping[str, Any], masks: Mapping[str, Mapping[str, Any] | None]) -> str:
    checkpoint = facts["checkpoint"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    lines = [
        "## Provenance",
        "",
        f"- Checkpoint: SHA-256 `{checkpoint['sha256']}`",
        *(f"- Mask {name}: SHA-256 `{mask['sha256']}`" for name, mask in masks.items() if mask),
    ]
    if facts.get("config_sha256"):
        lines.append(f"- Training configuration: SHA-256 `{facts['config_sha256']}`")
    lines += [f"- Made with {versions}", f"- Method: {CITATION}"]
    return "\n".join(lines)
