"""Means of scores over directions and seeds, and differences to controls: a pandas frame, a row a mean.

A mean is given only where every score it is of is there; none is over fewer. A system that was trained under
several seeds has the mean over its runs, and its differences are taken seed by seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from neuron_specialization.evaluation.tables import ScoreTable, direction_sets
from neuron_specialization.run_names import split_run

if TYPE_CHECKING:
    import pandas as pd

# systems named so are compared with, in this order
CONTROLS = ("continued", "baseline")
# what a mean is of, besides the system; a place is a set of directions, by its number
_KEY = ["testset", "place", "metric"]


@dataclass(frozen=True)
class Means:
    """The means of a comparison.

    Attributes:
        frame: a row for each test set, set of directions, metric and system, in the order of the tables;
            not known: NaN. Columns: ``testset``; ``group``, ``tier``, ``branch`` of the set (after
            ``direction``, where it is a single one); ``metric``; ``system``; ``mean``; ``sd``, the sample
            standard deviation over seeds of the mean over directions (NaN for one seed); ``seeds``;
            ``directions``, how many of the ``expected`` ones have all their scores; for each control
            ``delta_<control>`` and ``delta_<control>_sd``, over the differences seed by seed.
        pairs: (system, control) of every difference.
    """

    frame: pd.DataFrame
    pairs: list[tuple[str, str]]

    def rows(self, **values: str) -> list[dict[str, Any]]:
        """The rows that have these values, in order; None for what is not known."""
        chosen = self.frame
        for column, value in values.items():
            chosen = chosen[chosen[column] == value]
        columns = [str(column) for column in chosen]
        known = chosen.astype(object).where(chosen.notna(), None)
        return [dict(zip(columns, row, strict=True)) for row in known.itertuples(index=False)]


def controls_of(systems: Iterable[str]) -> list[str]:
    """The systems that others are compared with."""
    systems = list(systems)
    return [name for name in CONTROLS if name in systems] if len(systems) > 1 else []


def summarise(table: ScoreTable, controls: Sequence[str] | None = None) -> Means:
    """Means over directions for every system, metric and test set.

    For every direction group and for all directions: over each tier, each branch, and the whole.
    """
    sets = [
        ({"group": group, "tier": tier, "branch": branch}, [row.direction for row in rows])
        for group, tier, branch, rows in direction_sets(table.directions)
    ]
    return _means(table, sets, controls)


def summarise_directions(table: ScoreTable, controls: Sequence[str] | None = None) -> Means:
    """Means over seeds of every direction."""
    return _means(table, [(vars(row), [row.direction]) for row in table.directions], controls)


def _means(
    table: ScoreTable, sets: Sequence[tuple[dict[str, str], list[str]]], controls: Sequence[str] | None
) -> Means:
    """Means over sets of directions: of each its columns, and its directions."""
    import pandas as pd

    controls = controls_of(table.systems) if controls is None else list(controls)
    places = pd.DataFrame([columns for columns, _ in sets])
    members = pd.DataFrame(
        [(place, direction) for place, (_, directions) in enumerate(sets) for direction in directions],
        columns=["place", "member"],
    )
    scores = members.merge(_score_frame(table), on="member")
    means = scores.groupby([*_KEY, "system", "seed"], observed=True)["score"].mean(skipna=False)
    by_run = {system: means.xs(system, level="system").unstack("seed") for system in table.systems}
    scores["known"] = scores["score"].notna()
    complete = scores.groupby([*_KEY, "system", "member"], observed=True)["known"].all()
    complete = complete.groupby([*_KEY, "system"], observed=True).sum()
    frames, pairs = [], []
    for system in table.systems:
        values = by_run[system]
        columns: dict[str, Any] = {"system": system, **_over_seeds("mean", "sd", values)}
        columns |= {"seeds": values.shape[1], "directions": complete.xs(system, level="system")}
        # a control is compared only with those after it: not twice with the sign turned
        for control in controls[controls.index(system) + 1 :] if system in controls else controls:
            untrained = bool(table.released & {system, control})
            differences = _differences(values, by_run[control], all_pairs=untrained)
            columns |= _over_seeds(f"delta_{control}", f"delta_{control}_sd", differences)
            pairs.append((system, control))
        frames.append(pd.DataFrame(columns, index=values.index))
    frame = pd.concat(frames).sort_index(kind="stable").reset_index()
    expected = members.groupby("place").size()
    frame.insert(list(frame).index("directions") + 1, "expected", frame["place"].map(expected))
    order = ["testset", *places, *(column for column in frame if column not in ("testset", "place"))]
    return Means(frame.join(places, on="place")[order], pairs)


def _score_frame(table: ScoreTable) -> pd.DataFrame:
    """Every score, a row for each test set, metric, run and direction (``member``); NaN: missing."""
    import pandas as pd

    frame = pd.DataFrame(
        [
            (testset, metric, system, split_run(run)[1] or 0, row.direction, score)
            for testset in table.testsets
            for metric in table.metrics
            for system, runs in table.runs.items()
            for run in runs
            for row in table.directions
            for score in [table.score_of_run(run, testset, row.direction, metric)]
        ],
        columns=["testset", "metric", "system", "seed", "member", "score"],
    )
    # in the order of the tables, not of the alphabet
    for column, names in (("testset", table.testsets), ("metric", table.metrics)):
        frame[column] = pd.Categorical(frame[column], names)
    return frame.astype({"score": float})


def _differences(values: pd.DataFrame, others: pd.DataFrame, *, all_pairs: bool) -> pd.DataFrame:
    """Of two systems, a column a run: those of one seed; all of both, where one was not trained here."""
    import pandas as pd

    pairs = [(a, b) for a in values for b in others if all_pairs or a == b]
    return pd.DataFrame({(a, b): values[a] - others[b] for a, b in pairs}, index=values.index, dtype=float)


def _over_seeds(mean: str, deviation: str, values: pd.DataFrame) -> dict[str, pd.Series[float]]:
    """Mean and sample standard deviation over the columns; NaN where one of them has a gap."""
    return {mean: values.mean(axis=1, skipna=False), deviation: values.std(axis=1, skipna=False)}
