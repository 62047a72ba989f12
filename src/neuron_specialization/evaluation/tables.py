"""Every score of a comparison, read from the score files: what is there, what is missing, what compares.

All systems of a comparison must have been scored against the same references with the same metric
(sacrebleu's signature); anything else is refused. A system that was trained under several seeds (``ns``,
``ns@223``: config/runs.py) is one system here, with several runs. Means over them and directions: means.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import chain, product
from pathlib import Path
from statistics import fmean
from typing import Any

from neuron_specialization.directions import ZERO_SHOT
from neuron_specialization.errors import ScoringError, first_few
from neuron_specialization.evaluation.scoring import LABELS, label
from neuron_specialization.run_names import split_run
from neuron_specialization.storage.files import read_json

ALL = "all"
# as sacrebleu prints it: 40.1/17.2/9.9/6.3 (BP = 0.935 ratio = 0.937 hyp_len = 5020 ref_len = 5358)
_RATIO = re.compile(r"\bratio = (\d+(?:\.\d+)?)")
_KNOWN_SYSTEMS = ("baseline", "continued", "ns")
_KEYS = ("system", "testset", "direction", "segments", "hypothesis_sha256", "reference_sha256", "metrics")


@dataclass(frozen=True)
class DirectionGroup:
    """Where a direction belongs: ``en→X`` …, tier, branch (Config.groups)."""

    direction: str
    group: str
    tier: str
    branch: str


@dataclass(frozen=True)
class ScoreTable:
    """Every score of a comparison, by run, test set and direction; absent ones are gaps.

    Attributes:
        runs: system → its runs, one a seed, those of the first seed first.
        testsets, directions, metrics: in the order of the tables.
        scores: (run, test set, direction) → score file.
        seed: of the runs that are called as their system, where it is known.
        released: systems that were not trained here: their one run stands for every seed.
    """

    runs: dict[str, list[str]]
    testsets: list[str]
    directions: list[DirectionGroup]
    metrics: list[str]
    scores: dict[tuple[str, str, str], dict[str, Any]] = field(repr=False)
    seed: int | None = None
    released: frozenset[str] = frozenset()

    @property
    def systems(self) -> list[str]:
        """The systems, in order."""
        return list(self.runs)

    @property
    def all_runs(self) -> list[str]:
        """The runs of all systems, system by system."""
        return list(chain(*self.runs.values()))

    def seed_of(self, run: str) -> int | None:
        """The seed of a run, None where it is not known."""
        seed = split_run(run)[1]
        return self.seed if seed is None else seed

    def score_of_run(self, run: str, testset: str, direction: str, metric: str) -> float | None:
        """The score of one run, or None where it is missing."""
        found = self.scores.get((run, testset, direction))
        return found["metrics"][metric]["score"] if found and metric in found["metrics"] else None

    def length_ratio(self, run: str, testset: str, direction: str) -> float | None:
        """Tokens of the translation over those of the reference, as BLEU counts them; None if not known.

        Below 1 BLEU's brevity penalty applies, exp(1 - 1/ratio) (Papineni et al., 2002, section 2.2).
        """
        found = self.scores.get((run, testset, direction))
        verbose = found["metrics"].get("bleu", {}).get("verbose", "") if found else ""
        ratio = _RATIO.search(verbose)
        return float(ratio[1]) if ratio else None

    def mean_length_ratio(self, system: str, testset: str, group: str) -> float | None:
        """The mean of ``length_ratio`` over seeds and the directions of a group (all: those trained)."""
        return complete_mean(
            [
                self.length_ratio(run, testset, row.direction)
                for run in self.runs[system]
                for row in self.directions
                if in_group(row.group, group)
            ]
        )

    def missing(self) -> list[str]:
        """The combinations without a score file, as ``run/testset/direction``.

        Where the file is there and lacks a metric that another run has for that direction, with the metric.
        """
        computed: dict[tuple[str, str], set[str]] = {}
        for (_, testset, direction), score in self.scores.items():
            computed.setdefault((testset, direction), set()).update(score["metrics"])
        found = []
        for testset, run, row in product(self.testsets, self.all_runs, self.directions):
            name = f"{run}/{testset}/{row.direction}"
            own = self.scores.get((run, testset, row.direction))
            if own is None:
                found.append(name)
                continue
            lacking = computed[testset, row.direction] - own["metrics"].keys()
            found += [f"{name} ({label(metric)})" for metric in self.metrics if metric in lacking]
        return found

    def alternatives(self, testset: str) -> list[dict[str, Any]]:
        """The scores of a test set that have a second reading of the text (see ``scoring.score_all``)."""
        return [
            self.scores[run, testset, row.direction]
            for row in self.directions
            for run in self.all_runs
            if "alternative" in self.scores.get((run, testset, row.direction), {})
        ]

    def signatures(self, testset: str, metric: str) -> list[str]:
        """The signatures in use; more than one only where target languages need different tokenizers."""
        return sorted(
            {
                score["metrics"][metric]["signature"]
                for (_, of, _), score in self.scores.items()
                if of == testset and metric in score["metrics"]
            }
        )


def read_scores(
    folders: str | Path | Sequence[str | Path],
    groups: Sequence[DirectionGroup],
    *,
    systems: Sequence[str] | None = None,
    testsets: Sequence[str] | None = None,
    allow_missing: bool = False,
    seed: int | None = None,
    released: Collection[str] = (),
) -> ScoreTable:
    """Read all score files below one or more folders.

    Args:
        folders: each holds ``<system>/<testset>/<direction>.json``, as ``score --output`` writes; the metrics
            of the same translation in several (COMET's are apart) are put together.
        groups: every direction expected, in the order of the rows.
        systems: which runs, in the order of their systems; None takes all that are there.
        testsets: which, and in which order; None takes all that are there.
        allow_missing: show missing scores as gaps instead of refusing.
        seed: of the runs that are called as their system.
        released: systems that were not trained here.

    Raises:
        ScoringError: no score; a score file that is not one; scores that do not compare; missing ones.
    """
    folders = [folders] if isinstance(folders, str | Path) else list(folders)
    where = ", ".join(str(folder) for folder in folders)
    scores: dict[tuple[str, str, str], dict[str, Any]] = {}
    for folder in folders:
        _merge(scores, _read_files(Path(folder)))
    if not scores:
        raise ScoringError(
            "no score file is here", where=where, hint="score first: snakemake --cores all tables"
        )
    found_systems = dict.fromkeys(system for system, _, _ in scores)
    if systems is None:
        systems = [name for name in _KNOWN_SYSTEMS if name in found_systems]
        systems += sorted(name for name in found_systems if name not in systems)
    if testsets is None:
        testsets = sorted({testset for _, testset, _ in scores})
    directions = {row.direction for row in groups}
    scores = {
        key: score
        for key, score in scores.items()
        if key[0] in systems and key[1] in testsets and key[2] in directions
    }
    order = [*LABELS]
    metrics = sorted(
        {metric for score in scores.values() for metric in score["metrics"]},
        key=lambda name: (order.index(name) if name in order else len(order), name),
    )
    runs: dict[str, list[str]] = {}
    for run in systems:
        runs.setdefault(split_run(run)[0], []).append(run)
    table = ScoreTable(runs, list(testsets), list(groups), metrics, scores, seed, frozenset(released))
    _check_comparable(table)
    missing = table.missing()
    if missing and not allow_missing:
        raise ScoringError(
            f"{len(missing)} of {len(systems) * len(testsets) * len(groups)} scores are missing:"
            f" {first_few(missing, 5)}",
            where=where,
            hint="score them (snakemake makes what is missing), or show the gaps with --missing show",
        )
    return table


def _read_files(folder: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    scores = {}
    for path in sorted(folder.glob("*/*/*.json")):
        score = read_json(path)
        absent = [key for key in _KEYS if not isinstance(score, dict) or key not in score]
        if absent:
            raise ScoringError(f"not a score file: it lacks {', '.join(absent)}", where=path)
        key = (path.parent.parent.name, path.parent.name, path.stem)
        if key != (score["system"], score["testset"], score["direction"]):
            raise ScoringError(
                f"this is the score of {score['system']}/{score['testset']}/{score['direction']}, misplaced",
                where=path,
                hint="score again with the --system, --testset and --direction of its place",
            )
        scores[key] = score
    return scores


def _merge(
    scores: dict[tuple[str, str, str], dict[str, Any]], more: dict[tuple[str, str, str], dict[str, Any]]
) -> None:
    for key, score in more.items():
        known = scores.get(key)
        if known is None:
            scores[key] = score
            continue
        for text in ("hypothesis", "reference"):
            if known[f"{text}_sha256"] != score[f"{text}_sha256"]:
                raise ScoringError(
                    f"the metrics of {'/'.join(key)} were computed on different texts ({text})",
                    cause="the translation was made again since one of them",
                    hint="score it again with every metric",
                )
        scores[key] = known | {"metrics": known["metrics"] | score["metrics"]}


def _check_comparable(table: ScoreTable) -> None:
    """Refuse to put numbers side by side that measure different things."""
    for testset in table.testsets:
        for row in table.directions:
            scores = {
                run: table.scores[run, testset, row.direction]
                for run in table.all_runs
                if (run, testset, row.direction) in table.scores
            }
            for key, name in (("reference_sha256", "references"), ("detokenizer", "detokenizers")):
                _refuse_differing({s: v[key] for s, v in scores.items() if key in v}, name, testset, row)
            for metric in table.metrics:
                signatures = {
                    system: score["metrics"][metric]["signature"]
                    for system, score in scores.items()
                    if metric in score["metrics"]
                }
                _refuse_differing(signatures, f"{label(metric)} signatures", testset, row)


def _refuse_differing(values: dict[str, Any], what: str, testset: str, row: DirectionGroup) -> None:
    if len(set(values.values())) > 1:
        raise ScoringError(
            f"the systems were scored with different {what}: "
            + "; ".join(f"{system}: {value}" for system, value in values.items()),
            where=f"{testset}/{row.direction}",
            cause="score files of different runs",
            hint="score this direction of every system again",
        )


def set_name(group: str, tier: str, branch: str) -> str:
    """The name of a set of directions: ``en→X, low`` or ``X→en, Slavic`` or ``all``."""
    return ", ".join([group, *(part for part in (tier, branch) if part != ALL)])


def in_group(own: str, group: str) -> bool:
    """Whether a direction whose own group is ``own`` counts in a group.

    What was never trained is a group of its own, and no part of the mean of all.
    """
    return own == group or (group == ALL and own != ZERO_SHOT)


def direction_sets(rows: Sequence[DirectionGroup]) -> list[tuple[str, str, str, list[DirectionGroup]]]:
    """The sets of directions that get a mean: (group, tier, branch, directions), each name once."""
    groups = list(dict.fromkeys(row.group for row in rows))
    tiers = list(dict.fromkeys(row.tier for row in rows))
    branches = list(dict.fromkeys(row.branch for row in rows))
    sets = []
    for group in [*groups, ALL] if len(groups) > 1 else groups or [ALL]:
        of_group = [row for row in rows if in_group(row.group, group)]
        if len(tiers) > 1:
            sets += [
                (group, tier, ALL, [row for row in of_group if row.tier == tier])
                for tier in tiers
                if tier != ALL
            ]
        if len(branches) > 1:
            sets += [(group, ALL, name, [row for row in of_group if row.branch == name]) for name in branches]
        sets.append((group, ALL, ALL, of_group))
    return [entry for entry in sets if entry[3]]


def complete_mean(values: Sequence[float | None]) -> float | None:
    """The mean of values, None where one of them is missing or there is none."""
    present = [value for value in values if value is not None]
    return fmean(present) if present and len(present) == len(values) else None
