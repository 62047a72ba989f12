"""The whole configuration: what must hold between its sections, and what is derived from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pydantic import Field, field_validator, model_validator

from neuron_specialization.config.mask_selections import (
    ActivationMasks,
    FamilyMasks,
    ImportedMasks,
    MagnitudeMasks,
    MaskSelection,
)
from neuron_specialization.config.report import Report
from neuron_specialization.config.sections import (
    Activations,
    Corpus,
    LanguageCode,
    Mirror,
    Model,
    Name,
    Scoring,
    Section,
    Seed,
    System,
    Testset,
    Tiers,
    Training,
    Translation,
    Vocabulary,
    each_once,
    in_catalogue,
)
from neuron_specialization.directions import (
    MIXED_BRANCHES,
    MIXED_TIERS,
    NO_TIER,
    ZERO_SHOT,
    Direction,
    branch_of,
    known_languages,
)
from neuron_specialization.errors import ConfigError


class Config(Section):
    """The whole configuration, validated. See config.yaml for a commented example."""

    experiment: Name
    seed: Seed = 222
    # every system is trained once with each; the first is `seed`, which data and vocabulary follow
    seeds: list[Seed] = Field(default=[])
    languages: list[LanguageCode]
    pivot: LanguageCode | None = "en"
    directions: list[str] | None = None
    # translated and scored, never trained: by way of the pivot, under a mask put together from two
    zero_shot: list[str] = Field(default=[])
    tiers: Tiers = Field(default={})
    downloads: str = "downloads"
    # where files of the catalogue are looked for first, for all or by name: a folder, a file or a URL
    mirror: Mirror | None = None
    corpus: Corpus = Corpus()
    vocabulary: Vocabulary = Vocabulary()
    model: Model = Model()
    training: Training = Training()
    # only the keys given here differ from training:, for systems with a from:
    finetuning: Training = Training()
    activations: Activations = Activations()
    masks: dict[Name, MaskSelection] = Field(default={"k95": ActivationMasks()})
    systems: dict[Name, System]
    testsets: dict[Name, Testset] = Field(default={"heldout": Testset()})
    translation: Translation = Translation()
    scoring: Scoring = Scoring()
    report: Report = Report()

    @field_validator("languages")
    @classmethod
    def _unique_languages(cls, languages: list[str]) -> list[str]:
        if len(languages) < 2:
            raise ValueError("at least two languages are needed")
        return each_once(languages)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.directions is None and self.pivot not in self.languages:
            raise ValueError(
                f"pivot {self.pivot!r} is not among languages; list directions: instead, or add it"
            )
        self._parsed("directions", self.directions or [])
        if self.directions is not None and not self.directions:
            raise ValueError("directions: is empty; remove the key for all pairs with the pivot")
        tiered: dict[str, str] = {}
        for tier, codes in self.tier_lists().items():
            if tier == "all":  # the other words of the tables have a space, and no name has
                raise ValueError(f"tiers: {tier!r} has a meaning in the tables; give it another name")
            for code in codes:
                if code not in self.languages:
                    raise ValueError(f"tiers.{tier}: {code!r} is not among languages")
                if code in tiered:
                    raise ValueError(f"tiers: {code!r} is in both {tiered[code]} and {tier}")
                tiered[code] = tier
        unknown_caps = set(self.corpus.train_caps) - set(self.tier_lists())
        if unknown_caps:
            raise ValueError(f"corpus.train_caps: no tier is called {', '.join(sorted(unknown_caps))}")
        self._check_zero_shot()
        self._check_systems()
        self._check_selections()
        self._check_seeds()
        self._check_testsets()
        if self.report.compare_to is not None and self.report.compare_to not in self.systems:
            raise ValueError(f"report.compare_to: no system is called {self.report.compare_to!r}")
        if isinstance(self.mirror, dict):
            for name in self.mirror:
                in_catalogue("mirror", name)
        return self

    def _parsed(self, key: str, texts: Sequence[str]) -> list[Direction]:
        """The directions of a list, each once and between languages of ``languages:``."""
        directions: dict[Direction, None] = {}
        for text in texts:
            try:
                direction = Direction.parse(text)
            except ConfigError as error:
                raise ValueError(f"{key}: {error.what}" + (f": {error.hint}" if error.hint else "")) from None
            if direction in directions:
                raise ValueError(f"{key}: {text} is listed twice")
            for code in (direction.source, direction.target):
                if code not in self.languages:
                    raise ValueError(f"{key}: {text} uses {code!r}, which languages: does not list")
            directions[direction] = None
        return list(directions)

    def _check_zero_shot(self) -> None:
        trained = {str(direction) for direction in self.all_directions()}
        for direction in self._parsed("zero_shot", self.zero_shot):
            text = str(direction)
            if text in trained:
                raise ValueError(f"zero_shot: {text} is among the trained directions; it cannot be both")
            if self.pivot is None or self.pivot in (direction.source, direction.target):
                raise ValueError(
                    f"zero_shot: {text} must lead from one language to another around the pivot "
                    f"({self.pivot or 'none is set'})"
                )
            needed = direction.through(self.pivot)
            missing = [name for name in needed if name not in trained]
            if missing:
                raise ValueError(
                    f"zero_shot: {text} needs {' and '.join(needed)} to be trained: its mask and text are "
                    f"put together from theirs; directions: lacks {' and '.join(missing)}"
                )

    def _check_testsets(self) -> None:
        if not self.testsets:
            raise ValueError("testsets: is empty")
        for name in self.corpus.keep_out:
            if name not in self.testsets or self.testsets[name].source not in ("flores200", "folder"):
                raise ValueError(
                    f"corpus.keep_out: {name!r} is no test set with source: flores200 or folder (testsets:); "
                    "the corpus's own held-out text is always kept out"
                )
        for name, testset in self.testsets.items():
            if self.corpus.source != "data-bin":
                if testset.source == "data-bin":
                    raise ValueError(f"testsets.{name}: the corpus is not a data-bin (corpus.source)")
            elif testset.source == "corpus":
                raise ValueError(
                    f"testsets.{name}: a data-bin has no held-out text of its own; "
                    "name one of its splits, e.g. {source: data-bin, splits: [test]}"
                )
            elif testset.source != "data-bin" and not self.corpus.segmentation:
                raise ValueError(
                    f"testsets.{name}: text cannot be segmented as the data-bin was: set corpus.segmentation "
                    "to its SentencePiece model, or use the data-bin's own test split (source: data-bin)"
                )

    def _check_systems(self) -> None:
        if not self.systems:
            raise ValueError("systems: is empty")
        for name, system in self.systems.items():
            for other in system.compare_to:
                if other == name or other not in self.systems:
                    raise ValueError(f"systems.{name}.compare_to: no other system is called {other!r}")
            if system.init is None:
                if system.masks is not None:
                    raise ValueError(f"systems.{name}: masks need a trained model to go on from: set from:")
                continue
            if system.init == name or system.init not in self.systems:
                raise ValueError(f"systems.{name}.from: no other system is called {system.init!r}")
            if self.systems[system.init].init is not None:
                raise ValueError(
                    f"systems.{name}.from: {system.init!r} is not a baseline (it has a from: itself)"
                )
            if system.masks is not None and system.masks not in self.masks:
                raise ValueError(f"systems.{name}.masks: no selection is called {system.masks!r} in masks:")
        masked = {system.init for system in self.systems.values() if system.masks and system.init}
        if len(masked) > 1:
            raise ValueError(
                "systems: masks are made from one baseline, but those with masks: go on from "
                f"{', '.join(sorted(masked))}; give each baseline its own experiment"
            )

    def _check_selections(self) -> None:
        for name, selection in self.masks.items():
            parent = selection.parent
            if parent is None:
                continue
            if parent == name or parent not in self.masks:
                raise ValueError(f"masks.{name}.like: no other selection is called {parent!r}")
            if isinstance(selection, FamilyMasks) and not isinstance(self.masks[parent], ActivationMasks):
                raise ValueError(
                    f"masks.{name}.like: a family's mask is made of masks by activation; not so {parent!r}"
                )
            if self.masks[parent].parent is not None:
                raise ValueError(
                    f"masks.{name}.like: {parent!r} is made from another selection itself; name that"
                )

    def _check_seeds(self) -> None:
        if self.seeds and self.seeds[0] != self.seed:
            raise ValueError(
                f"seeds: the first must be seed ({self.seed}), whose results have the plain names"
            )
        repeated = sorted({str(seed) for seed in self.seeds if self.seeds.count(seed) > 1})
        if repeated:
            raise ValueError(f"seeds: listed twice: {', '.join(repeated)}")
        for name, system in self.systems.items():
            self._check_seeds_of(name, system)
        if len(self.seeds) > 1 and self.systems[self.mask_baseline()].checkpoint is None:
            for name in self.selections_in_use():
                if isinstance(self.masks[name], ImportedMasks):
                    raise ValueError(
                        f"masks.{name}.source: these are the masks of one model, and seeds: trains the "
                        f"baseline {len(self.seeds)} times"
                    )

    def _check_seeds_of(self, name: str, system: System) -> None:
        if system.checkpoint is not None and system.seeds:
            raise ValueError(f"systems.{name}.seeds: it has a checkpoint: and is not trained")
        if system.seeds and system.seeds[0] != self.seed:
            raise ValueError(
                f"systems.{name}.seeds: the first must be seed ({self.seed}), "
                "whose results have the plain names"
            )
        for seed in system.seeds:
            if seed not in self.all_seeds():
                raise ValueError(f"systems.{name}.seeds: {seed} is not among seeds:")
        if system.init is None or self.systems[system.init].checkpoint is not None:
            return
        for seed in self.seeds_of(name):
            if seed not in self.seeds_of(system.init):
                raise ValueError(
                    f"systems.{name}.seeds: it goes on from {system.init}, which has no run with {seed}"
                )

    # ---- derived, never typed twice ----

    def all_seeds(self) -> list[int]:
        """The seeds that systems are trained with; the first is ``seed``."""
        return self.seeds or [self.seed]

    def seeds_of(self, name: str) -> list[int]:
        """The seeds that a system is trained with, in the order of ``seeds``; the first for a checkpoint."""
        system = self.systems[name]
        if system.checkpoint is not None:
            return [self.seed]
        return [seed for seed in self.all_seeds() if not system.seeds or seed in system.seeds]

    def selections_in_use(self) -> list[str]:
        """The selections that a system is trained under, and those they are made from, sorted."""
        used = {system.masks for system in self.systems.values() if system.masks}
        return sorted(used | {parent for name in used if (parent := self.masks[name].parent)})

    def all_directions(self) -> list[Direction]:
        """Every direction that is trained, in config order."""
        if self.directions is not None:
            return [Direction.parse(text) for text in self.directions]
        others = [code for code in self.languages if code != self.pivot]
        assert self.pivot is not None  # _consistent
        return [Direction(self.pivot, code) for code in others] + [
            Direction(code, self.pivot) for code in others
        ]

    def zero_shot_directions(self) -> list[Direction]:
        """The directions that are scored and not trained, in config order."""
        return [Direction.parse(text) for text in self.zero_shot]

    def scored_directions(self) -> list[Direction]:
        """Every direction that is translated and scored: the trained ones, then the zero-shot ones."""
        return [*self.all_directions(), *self.zero_shot_directions()]

    def zero_shot_pairs(self) -> list[str]:
        """The unordered pairs of zero-shot directions that no trained direction has: only tested on."""
        trained = self.pairs()
        pairs = dict.fromkeys(direction.pair for direction in self.zero_shot_directions())
        return [pair for pair in pairs if pair not in trained]

    def mask_parts(self) -> list[str]:
        """The trained directions whose masks those of the zero-shot directions are put together from."""
        parts = [
            part for direction in self.zero_shot_directions() for part in direction.through(str(self.pivot))
        ]
        return list(dict.fromkeys(parts))

    def pivot_pairs(self) -> list[str]:
        """The trained pairs that the text of the zero-shot pairs is put together from."""
        codes = [code for pair in self.zero_shot_pairs() for code in pair.split("-")]
        return list(dict.fromkeys(Direction(code, str(self.pivot)).pair for code in codes))

    def given_heldout_pairs(self) -> list[str]:
        """The zero-shot pairs whose held-out text must be given: of local text, which need not be parallel.

        Elsewhere it is put together from that of the pairs with the pivot.
        """
        wanted = any(testset.source == "corpus" for testset in self.testsets.values())
        return self.zero_shot_pairs() if wanted and self.corpus.source == "local" else []

    def pairs(self) -> list[str]:
        """The unordered pairs of all trained directions (see Direction.pair), in order of first use."""
        return list(dict.fromkeys(direction.pair for direction in self.all_directions()))

    def tier_lists(self) -> dict[str, list[str]]:
        """Tier name → languages."""
        if self.tiers == "ec30":
            table = known_languages()
            tiers: dict[str, list[str]] = {"high": [], "medium": [], "low": []}
            for code in self.languages:
                if code in table and table[code].ec30_tier in tiers:
                    tiers[table[code].ec30_tier].append(code)
            return tiers
        assert isinstance(self.tiers, dict)
        return self.tiers

    def tier_of(self, direction: Direction) -> str:
        """The tier of the direction's non-pivot language; ``all`` without tiers, ``no tier`` if in none."""
        code = direction.other(self.pivot) or direction.source
        tiers = self.tier_lists()
        found = (tier for tier, codes in tiers.items() if code in codes)
        return next(found, NO_TIER if any(tiers.values()) else "all")

    def train_cap(self, pair: str) -> int | None:
        """How many training segments a pair may keep; the smaller of its two languages' caps; None = all."""
        tiers = self.tier_lists()
        caps = [
            cap
            for tier, cap in self.corpus.train_caps.items()
            if any(code in tiers[tier] for code in pair.split("-"))
        ]
        return min(caps) if caps else None

    def mirror_of(self, name: str) -> str | None:
        """Where a file of the catalogue is looked for before its origin."""
        return self.mirror.get(name) if isinstance(self.mirror, dict) else self.mirror

    def data_bin_splits(self) -> list[str]:
        """The splits that are needed of a corpus that comes binarised."""
        trained = any(system.checkpoint is None for system in self.systems.values())
        in_use = [self.masks[name] for name in self.selections_in_use()]
        counted = any(isinstance(selection, ActivationMasks) for selection in in_use)
        # a ranking by magnitude comes from a fine-tuning of its own
        trained = trained or any(isinstance(selection, MagnitudeMasks) for selection in in_use)
        wanted = ["train", "valid"] if trained else []
        wanted += [self.activations.split] if counted else []
        for testset in self.testsets.values():
            wanted += testset.splits if testset.source == "data-bin" else []
        return list(dict.fromkeys(wanted))

    def mask_baseline(self) -> str:
        """The baseline whose activations give the masks; the first baseline where no system has masks."""
        masked = (system.init for system in self.systems.values() if system.masks and system.init)
        return next(masked, next(name for name, system in self.systems.items() if system.init is None))

    def training_of(self, name: str) -> Training:
        """The resolved settings of a system: training, then finetuning if it has a from, then its own."""
        system = self.systems[name]
        return self._overridden(*([self.finetuning] if system.init else []), system.training)

    def magnitude_training_of(self, name: str) -> Training:
        """The resolved settings of the fine-tunings that a selection by magnitude ranks the neurons of."""
        selection = self.masks[name]
        assert isinstance(selection, MagnitudeMasks)
        return self._overridden(self.finetuning, selection.finetuning)

    def _overridden(self, *overrides: Training) -> Training:
        values = self.training.model_dump()
        for override in overrides:
            values |= override.model_dump(exclude_unset=True)
        return Training(**values)

    def groups(self) -> list[dict[str, str]]:
        """One row a scored direction: direction, group (en→X …), tier, branch of the non-pivot language.

        A zero-shot direction has two such languages: where they differ, ``mixed tiers``, ``mixed branches``.
        """
        rows = []
        for direction in self.scored_directions():
            if str(direction) in self.zero_shot:
                rows.append(
                    {"direction": str(direction), "group": ZERO_SHOT, **self._zero_shot_row(direction)}
                )
                continue
            code = direction.other(self.pivot) or direction.source
            rows.append(
                {
                    "direction": str(direction),
                    "group": direction.group(self.pivot),
                    "tier": self.tier_of(direction),
                    "branch": branch_of(code),
                }
            )
        return rows

    def _zero_shot_row(self, direction: Direction) -> dict[str, str]:
        codes = (direction.source, direction.target)
        pivot = str(self.pivot)
        tiers = dict.fromkeys(self.tier_of(Direction(pivot, code)) for code in codes)
        branches = dict.fromkeys(branch_of(code) for code in codes)
        return {
            "tier": next(iter(tiers)) if len(tiers) == 1 else MIXED_TIERS,
            "branch": next(iter(branches)) if len(branches) == 1 else MIXED_BRANCHES,
        }
