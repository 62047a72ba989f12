"""The report page: everything an experiment found, in one file that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuron_specialization.config import Config, selections_by_run, systems_by_run
from neuron_specialization.config.comparisons import comparisons, control_of, unequal_training
from neuron_specialization.evaluation.significance import read_comparison
from neuron_specialization.reporting import facts
from neuron_specialization.reporting.answer import Answer, answer, context, family_sentences
from neuron_specialization.reporting.scores import Evaluation, read_evaluation, score_tables
from neuron_specialization.reporting.svg import inline
from neuron_specialization.reporting.table import Table

# with more comparisons than these the tables come before the figures, of which each has one
_MANY = 3
# figure of a selection of neurons → (heading, caption)
_MASK_FIGURES = {
    "similarity": (
        "Overlap of masks by layer",
        "Intersection over union (IoU) of the neurons that every two directions keep, ordered by branch. "
        "Above each panel: mean within and across branches, and p of the permutation test of family "
        "structure in this layer.",
    ),
    "overlap": (
        "Overlap by depth",
        "Mean IoU of two directions of one branch and of two branches, layer by layer.",
    ),
    "clusters": (
        "Directions clustered by their masks",
        "Average linkage on 1 − mean IoU. Adjusted Rand compares the tree, cut into as many clusters as "
        "there are branches, with the branches; cophenetic r says how well the tree keeps the distances.",
    ),
    "sharing": (
        "Who keeps a neuron",
        "Neurons of each layer that all directions keep, several branches, several directions of one branch "
        "only, one direction only, or none.",
    ),
    "sparsity": ("Sparsity", "Share of masked neurons by direction and layer."),
    "activity": (
        "How few neurons make up the activity",
        "Cumulative share of all activations against the share of neurons, most active first; dots: where "
        "the selection cuts.",
    ),
    "neurons": (
        "Neurons that differ between branches",
        "Share of positions at which a neuron is active, for the neurons with the largest variance between "
        "branches. e1.26 is neuron 26 (from 0) of the encoder's first layer.",
    ),
}


@dataclass(frozen=True)
class PageFigure:
    """A figure on the page: the SVG itself, heading, caption, and the command that draws it again."""

    identifier: str
    heading: str
    caption: str
    svg: str
    command: str


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    identifier: str
    heading: str
    text: list[str] = field(default_factory=list)
    figures: list[PageFigure] = field(default_factory=list)
    tables: list[tuple[Table, str]] = field(default_factory=list)
    figures_first: bool = False


class _Page:
    """Collects what is there."""

    def __init__(self, results: Path, config: Config, command: str) -> None:
        self.results, self.config, self.command = results, config, command

    def made_by(self, path: str) -> str:
        """The command that makes a file again."""
        return f"{self.command} --force {self.results / path}"

    def figure(self, name: str, heading: str, caption: str) -> list[PageFigure]:
        """The figure of a name, if it was drawn."""
        path = self.results / "figures" / f"{name}.svg"
        if not path.is_file():
            return []
        identifier = "figure-" + "".join(c if c.isalnum() else "-" for c in name)
        svg = inline(path, identifier)
        return [PageFigure(identifier, heading, caption, svg, self.made_by(f"figures/{name}.svg"))]


def build_page(results: str | Path, config: Config, command: str = "snakemake --cores all") -> str:
    """Return the report of an experiment as HTML.

    Args:
        results: ``results/<experiment>``; what is not there yet is left out.
        config: of the experiment.
        command: how the workflow is run; the commands on the page begin with it.

    Raises:
        ScoringError: there is no score table.
    """
    page = _Page(Path(results), config, command)
    pairs = comparisons(config)
    found = []
    for testset in config.testsets:
        for system, control in pairs:
            path = page.results / "comparisons" / testset / f"{system}-{control}.json"
            if path.is_file():
                found.append(read_comparison(path))
    evaluation = read_evaluation(page.results / "tables", found)
    overlaps = facts.read_overlaps(page.results, list(selections_by_run(config)))
    sections = [
        _scores(page, evaluation, pairs),
        _masks(page, overlaps),
        _training(page),
        _data(page),
    ]
    return _render(
        page,
        answers=_answers(page, evaluation),
        families=family_sentences(_by_first_use(overlaps, config), _by_branch(config)),
        sections=[section for section in sections if section.figures or section.tables],
    )


def _subjects(config: Config) -> list[str]:
    """The masked systems, `ns` first."""
    return sorted(
        (name for name, system in config.systems.items() if system.masks), key=lambda name: name != "ns"
    )


def _by_first_use(overlaps: dict[str, Any], config: Config) -> dict[str, Any]:
    """The overlaps of selections in the order of the systems that use them, then the others."""
    used = [config.systems[name].masks for name in _subjects(config)]
    return dict(
        sorted(overlaps.items(), key=lambda item: used.index(item[0]) if item[0] in used else len(used))
    )


def _by_branch(config: Config) -> list[str]:
    """The selections that have one mask a branch."""
    return [name for name, selection in selections_by_run(config).items() if selection.method == "family"]


def _answers(page: _Page, evaluation: Evaluation) -> list[tuple[str, Answer]]:
    """The answers for each test set: of `ns` against the control, then of the other masked systems."""
    found = []
    for testset in evaluation.testsets:
        for system in _subjects(page.config):
            control = control_of(page.config, system)
            of_pair = evaluation.comparisons.get((testset, system, control))
            if of_pair is None:
                continue
            result = answer(of_pair, unequal_training(page.config, system, control))
            origin = page.config.systems[control].init
            of_control = evaluation.comparisons.get((testset, control, origin or ""))
            if of_control and origin:
                result.sentences.append(context(control, origin, of_control))
            found.append((testset, result))
    return found


def _scores(page: _Page, evaluation: Evaluation, pairs: Sequence[tuple[str, str]]) -> Section:
    figures = []
    for testset in page.config.testsets:
        figures += page.figure(
            f"sweep-{testset}",
            f"What k changes, {testset}",
            "Mean score difference with its interval, masked neurons and overlap of the masks against k.",
        )
        for system, control in pairs:
            figures += page.figure(
                f"deltas-{testset}-{system}-{control}",
                f"{system} against {control}, {testset}, direction by direction",
                "Difference of the score in every direction with its interval, and means. Right of the line "
                "the first system is better. Tiers say how much training text a language has.",
            )
    made = [(table, page.made_by("tables/evaluation.csv")) for table in score_tables(evaluation)]
    return Section("scores", "Scores", [], figures, made, figures_first=len(pairs) <= _MANY)


def _masks(page: _Page, overlaps: dict[str, Any]) -> Section:
    figures: list[PageFigure] = []
    for selection in overlaps:
        for name, (heading, caption) in _MASK_FIGURES.items():
            figures += page.figure(f"{name}-{selection}", f"{heading} ({selection})", caption)
    table = facts.family_table(overlaps)
    tables = [(table, page.made_by(f"masks/{next(iter(overlaps))}/overlap.json"))] if table else []
    return Section("masks", "Masks", [], figures, tables)


def _training(page: _Page) -> Section:
    runs = [name for name, system in systems_by_run(page.config).items() if system.checkpoint is None]
    figures = page.figure(
        "training",
        "Training",
        "Loss against updates: thin lines training, marks validation, circles the published model. A "
        "continued training starts at the update and loss of the model it goes on from.",
    )
    figures += page.figure(
        "perplexity",
        "Perplexity by direction",
        "Validation loss (perplexity = 2^loss) against updates, a line a system (mean over seeds).",
    )
    tables = [(facts.training_table(page.results / "training", runs), f"{page.command} models")]
    for name, caption, note in (
        ("costs", "What each system costs", "– is not known."),
        (
            "interference",
            "Interference: validation loss of the control less that of the system",
            "Bits a target token, of published models that went on from the same one for as many updates. "
            "Less interference between directions makes it larger; so does all else that lowers the system's "
            "loss.",
        ),
    ):
        path = f"tables/{name}.csv"
        tables.append((facts.csv_table(page.results / path, name, caption, [note]), page.made_by(path)))
    made = [(table, command) for table, command in tables if table is not None]
    return Section("training", "Training", [], figures, made)


def _data(page: _Page) -> Section:
    manifest = facts.optional_json(page.results / "corpus" / "manifest.json")
    if manifest is None:
        return Section("data", "Data")
    binarized = facts.optional_json(page.results / "binarized" / "manifest.json")
    text = [
        f"Source: {manifest.get('source', 'unknown')}. Licence: {manifest.get('licence') or 'not stated'}. "
        f"{manifest.get('citation') or ''}"
    ]
    if origin := manifest.get("input"):
        # a folder of one's own text has no checksum of its own: its files' are in the manifest
        checksum = f" (sha256 {origin['sha256']})" if "sha256" in origin else ""
        text.append(f"Read from {origin['name']}{checksum}.")
    if binarized:
        text.append(
            f"Segmented with one SentencePiece model for all languages; {binarized['vocabulary_size']:,} "
            "pieces."
        )
    if near := manifest.get("near_duplicates"):
        text.append(_near_duplicates(near))
    for name in page.config.testsets:
        of_testset = facts.optional_json(page.results / "testsets" / name / "manifest.json")
        if of_testset and "in_training_text" in of_testset:
            text.append(_in_training_text(name, of_testset))
    table = facts.corpus_table(manifest, binarized)
    return Section("data", "Data and licences", text, [], [(table, page.made_by("corpus/manifest.json"))])


def _near_duplicates(near: Mapping[str, Any]) -> str:
    """How like the training text the corpus's own held-out text is."""
    share = 100 * near["near"] / near["segments"]
    text = (
        f"Of {near['segments']:,} held-out segments, {near['near']:,} ({share:.0f} %) have a near-duplicate "
        f"in the training text, though none equals one ({near['language']} side; Jaccard index of character "
        f"4-grams at least {near['jaccard']}). Expect lower scores on text of another kind."
    )
    if near["searched"] < near["training_segments"]:
        text += f" Searched: {near['searched']:,} of {near['training_segments']:,} training segments."
    return text


def _in_training_text(name: str, manifest: Mapping[str, Any]) -> str:
    """What of a test set from elsewhere the systems have seen in training."""
    shared = {pair: count for pair, count in manifest["in_training_text"].items() if count}
    if not shared:
        return f"Test set {name}: no segment has a side that is in the training text."
    counts = ", ".join(f"{pair} {count:,}" for pair, count in shared.items())
    return (
        f"Test set {name}, {manifest['segments']:,} segments: with a side that is in the training text: "
        f"{counts}. Scores on them say less; corpus.keep_out removes such text from the training."
    )


def _render(
    page: _Page,
    *,
    answers: list[tuple[str, Answer]],
    families: list[str],
    sections: list[Section],
) -> str:
    import jinja2
    import yaml

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("neuron_specialization.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    settings = page.config.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return environment.get_template("report.html").render(
        experiment=page.config.experiment,
        # the first in full, further systems folded up
        answers=answers,
        families=families,
        sections=sections,
        method=_method(page.config),
        systems=_systems(page.config),
        environment=facts.environment(),
        configuration=yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=100),
        artefacts=facts.artefacts(page.results),
        command=page.command,
        results=str(page.results),
    )


def _method(config: Config) -> list[str]:
    model = config.model
    return [
        "Neuron Specialization (Tan, Wu and Monz, EMNLP 2024): in each feed-forward layer of a trained "
        "multilingual Transformer, the neurons that make up most of a direction's activity on validation "
        "text are kept for that direction. Training goes on with the first matrix's rows of the other "
        "neurons masked: that direction neither uses nor changes them; all other parameters are trained by "
        "every direction. Masked neurons are masked in translation, too.",
        f"Model: {model.encoder_layers} encoder and {model.decoder_layers} decoder layers, width "
        f"{model.d_model}, {model.d_ff:,} neurons a feed-forward layer, {model.heads} heads. A system "
        "and its control are to have the same updates on as many tokens, so that a difference is not one of "
        "training time; where they had not, the answer says so.",
        f"Translation: {config.translation.engine}, beam {config.translation.beam}, length penalty "
        f"{config.translation.length_penalty:g}. Scores: sacrebleu; detokenisation: "
        f"{config.scoring.detokenizer}.",
    ]


def _systems(config: Config) -> list[tuple[str, str]]:
    described = []
    for name, system in config.systems.items():
        parts = [f"goes on from {system.init}" if system.init else "trained from scratch"]
        if system.checkpoint:
            parts = [f"taken over from {system.checkpoint}"]
        if system.masks:
            selection = config.masks[system.masks].model_dump(mode="json")
            settings = ", ".join(
                f"{key} {json.dumps(value) if isinstance(value, dict | list) else value}"
                for key, value in selection.items()
                if value is not None and key in ("method", "k", "sides", "like", "combine", "draw", "source")
            )
            parts.append(f"under masks {system.masks} ({settings})")
        elif system.init:
            parts.append("without masks: a control for the extra updates")
        described.append((name, ", ".join(parts)))
    if len(config.all_seeds()) > 1:
        described.append(("seeds", ", ".join(map(str, config.all_seeds()))))
    return described
