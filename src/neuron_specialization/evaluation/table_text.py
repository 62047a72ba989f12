"""Score tables for people: Markdown for files, rich tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuron_specialization.evaluation.means import Means
from neuron_specialization.evaluation.scoring import decimals, label
from neuron_specialization.evaluation.tables import ALL, ScoreTable, set_name
from neuron_specialization.storage.files import atomic_text

if TYPE_CHECKING:
    from rich.console import Console

    from neuron_specialization.evaluation.significance import Comparison, DirectionResult, GroupResult

GAP = "–"
# with more systems than these, each is a row of means instead of a column
_COLUMNS = 4


def number(value: float | None, metric: str, *, signed: bool = False) -> str:
    """A score as printed, or a gap."""
    if value is None:
        return GAP
    return f"{value:{'+' if signed else ''}.{decimals(metric)}f}"


def mean_text(mean: dict[str, Any]) -> str:
    """A mean (a row of ``Means``), or how many of its directions have a score where some have none."""
    if mean["mean"] is None:
        return f"{GAP} ({mean['directions']}/{mean['expected']})"
    deviation = f" ± {number(mean['sd'], mean['metric'])}" if mean["sd"] is not None else ""
    return number(mean["mean"], mean["metric"]) + deviation


def _name(mean: dict[str, Any]) -> str:
    return set_name(mean["group"], mean["tier"], mean["branch"])


def write_summary_markdown(path: str | Path, table: ScoreTable, means: Means) -> None:
    """Write the means as Markdown tables, one a test set and metric, with the signature under each."""
    with atomic_text(path) as handle:
        handle.write("\n".join(_summary_lines(table, means)) + "\n")


def _summary_lines(table: ScoreTable, means: Means) -> list[str]:
    lines = ["# Scores", ""]
    missing = table.missing()
    if missing:
        lines += [f"**Missing scores: {len(missing)}** ({GAP}): {', '.join(missing)}", ""]
    for testset in table.testsets:
        for metric in table.metrics:
            make = _sets_table if len(table.systems) <= _COLUMNS else _systems_table
            header, rows = make(table, means, means.rows(testset=testset, metric=metric))
            lines += [f"## {label(metric)}, {testset}", "", *_markdown_table(header, rows), ""]
            lines += [f"`{signature}`" for signature in table.signatures(testset, metric)]
            lines.append("")
        lines += _length_lines(table, testset)
        lines += [
            f"- {line.strip()}" if line.startswith("  ") else f"{line}\n"
            for line in _alternative_lines(table, testset)
        ]
        lines += [""] * bool(table.alternatives(testset))
    lines.append("Means over directions; a mean is given only where every direction of it has a score.")
    if len(table.systems) > _COLUMNS:
        lines.append("In brackets the difference to the first of the controls. Every mean: summary.csv.")
    seeds = {len(runs) for runs in table.runs.values()}
    if max(seeds) > 1:
        counted = " or ".join(str(count) for count in sorted(seeds))
        lines.append(f"Means over {counted} seeds, ± their sample standard deviation.")
    return lines


def _sets_table(
    table: ScoreTable, means: Means, of_table: Sequence[dict[str, Any]]
) -> tuple[list[str], list[list[str]]]:
    """Header and rows: a row for each set of directions, a column for each system and difference."""
    rows = []
    for row in _by_set(of_table):
        first = next(iter(row.values()))
        cells = [_name(first), str(first["expected"])]
        cells += [mean_text(row[system]) for system in table.systems]
        cells += [number(row[a][f"delta_{b}"], first["metric"], signed=True) for a, b in means.pairs]
        rows.append([f"**{cell}**" for cell in cells] if first["tier"] == first["branch"] == ALL else cells)
    return ["directions", "n", *table.systems, *(f"Δ {a} − {b}" for a, b in means.pairs)], rows


def _systems_table(
    table: ScoreTable, means: Means, of_table: Sequence[dict[str, Any]]
) -> tuple[list[str], list[list[str]]]:
    """Header and rows: a row for each system, a column for each whole group, and what there is of all."""
    sets = _by_set(
        [mean for mean in of_table if mean["tier"] == mean["branch"] == ALL or mean["group"] == ALL]
    )
    first_control = dict(_first_pairs(means))
    rows = []
    for system in table.systems:
        control = first_control.get(system)
        cells = [system]
        for row in sets:
            mean = row[system]
            delta = mean[f"delta_{control}"] if control else None
            shown = "" if delta is None else f" ({number(delta, mean['metric'], signed=True)})"
            cells.append(mean_text(mean) + shown)
        rows.append(cells)
    return ["system", *(_name(next(iter(row.values()))) for row in sets)], rows


def _length_lines(table: ScoreTable, testset: str) -> list[str]:
    """How long the translations are, which BLEU's brevity penalty rests on; nothing without BLEU."""
    groups = list(dict.fromkeys(row.group for row in table.directions))
    groups += [ALL] if len(groups) > 1 else []
    rows = []
    for system in table.systems:
        ratios = [table.mean_length_ratio(system, testset, group) for group in groups]
        rows.append([system, *(GAP if ratio is None else f"{ratio:.3f}" for ratio in ratios)])
    if all(cell == GAP for row in rows for cell in row[1:]):
        return []
    return [
        f"## Length, {testset}",
        "",
        *_markdown_table(["system", *groups], rows),
        "",
        "Tokens of the translation over those of the reference, as BLEU counts them; below 1, BLEU is "
        "multiplied by exp(1 − 1/ratio).",
        "",
    ]


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [_row(header), _row(["---", *(["---:"] * (len(header) - 1))]), *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _by_set(means: Sequence[dict[str, Any]]) -> list[dict[str, dict[str, Any]]]:
    """System → mean, of each set of directions."""
    rows: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for mean in means:
        rows.setdefault((mean["group"], mean["tier"], mean["branch"]), {})[mean["system"]] = mean
    return list(rows.values())


def print_tables(console: Console, table: ScoreTable, means: Means, by_direction: Means) -> None:
    """Print, for each test set, directions × systems, then the means, and the signatures under them.

    ``means`` are over sets of directions, ``by_direction`` those of each (``means.summarise_directions``).
    All metrics stand side by side where the terminal is wide enough, else one below the other.
    """
    if len(table.systems) > _COLUMNS:
        _print_systems(console, table, means)
        return
    for testset in table.testsets:
        segments = {score["segments"] for (_, of, _), score in table.scores.items() if of == testset}
        title = f"{testset}: {', '.join(str(count) for count in sorted(segments))} segments a direction"
        shown = _build(table, means, by_direction, testset, table.metrics, title)
        if _width(console, shown) <= console.width or len(table.metrics) == 1:
            _print_whole(console, shown)
        else:
            for metric in table.metrics:
                of_metric = f"{label(metric)}, {title}"
                _print_whole(console, _build(table, means, by_direction, testset, [metric], of_metric))
        _print_under(console, table, testset)
    _print_missing(console, table)


def _print_systems(console: Console, table: ScoreTable, means: Means) -> None:
    """Print the means, a row for each system: what a terminal holds of many systems."""
    for testset in table.testsets:
        for metric in table.metrics:
            # tiers and branches are in the files
            of_table = means.rows(testset=testset, metric=metric, tier=ALL, branch=ALL)
            header, rows = _systems_table(table, means, of_table)
            shown = _plain_table(f"{label(metric)}, {testset}: means (difference to the first control)")
            for index, name in enumerate(header):
                shown.add_column(name, justify="right" if index else "left", no_wrap=True)
            for row in rows:
                shown.add_row(*row)
            _print_whole(console, shown)
        _print_under(console, table, testset)
    _print_missing(console, table)


def _print_under(console: Console, table: ScoreTable, testset: str) -> None:
    for metric in table.metrics:
        for signature in table.signatures(testset, metric):
            console.print(f"{label(metric)}: {signature}", style="dim", highlight=False, soft_wrap=True)
    for line in _alternative_lines(table, testset):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print()


def _print_missing(console: Console, table: ScoreTable) -> None:
    missing = table.missing()
    if missing:
        console.print(f"missing scores: {len(missing)}: {', '.join(missing)}", style="red", soft_wrap=True)


def _alternative_lines(table: ScoreTable, testset: str) -> list[str]:
    """The second reading of text in which Moses' tokenizer splits words, and which of the two compares."""
    lines = []
    for text in dict.fromkeys(score["alternative"]["text"] for score in table.alternatives(testset)):
        scores = [score for score in table.alternatives(testset) if score["alternative"]["text"] == text]
        above = scores[0]["compares_with_paper"] == "metrics"
        which = "those above compare" if above else "these compare"
        lines += ["", f"The same translations scored on text {text}; {which} with the paper's:"]
        for score in scores:
            metrics = score["alternative"]["metrics"].items()
            values = "  ".join(f"{label(name)} {number(result['score'], name)}" for name, result in metrics)
            lines.append(f"  {score['direction']} {score['system']}: {values}")
    return lines


def _plain_table(title: str) -> Any:
    """A rich table without columns yet: a line under the head, no frame."""
    from rich import box
    from rich.table import Table

    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)


def _width(console: Console, shown: Any) -> int:
    return console.measure(shown, options=console.options.update(width=10_000)).maximum


def _print_whole(console: Console, shown: Any) -> None:
    """Print without cutting a number off: a terminal too narrow for the table wraps its lines."""
    width = console.width
    console.width = max(width, _width(console, shown))
    try:
        console.print(shown, crop=False)
    finally:
        console.width = width


def _build(
    table: ScoreTable, means: Means, by_direction: Means, testset: str, metrics: Sequence[str], title: str
) -> Any:
    shown = _plain_table(title)
    shown.add_column("direction", no_wrap=True)
    deltas = _first_pairs(means)
    for metric in metrics:
        names = [f"{label(metric)}\n{system}" for system in table.systems]
        names += [f"Δ {system}\n− {control}" for system, control in deltas]
        for name in names:
            shown.add_column(name, justify="right", no_wrap=True)
    scores = {
        (row["direction"], row["metric"], row["system"]): row for row in by_direction.rows(testset=testset)
    }
    for direction in (row.direction for row in table.directions):
        cells = []
        for metric in metrics:
            texts = {
                system: number(scores[direction, metric, system]["mean"], metric) for system in table.systems
            }
            best = _best(texts)
            cells += [_styled(text, system in best, text == GAP) for system, text in texts.items()]
            for system, control in deltas:
                difference = scores[direction, metric, system][f"delta_{control}"]
                cells.append(_styled(number(difference, metric, signed=True), False, difference is None))
        shown.add_row(direction, *cells)
    _add_means(shown, table, means.rows(testset=testset, branch=ALL), metrics, deltas)
    return shown


def _first_pairs(means: Means) -> list[tuple[str, str]]:
    """The differences where there is no room for all: of each system to its first control."""
    first: dict[str, str] = {}
    for system, control in means.pairs:
        first.setdefault(system, control)
    return list(first.items())


def _add_means(
    shown: Any,
    table: ScoreTable,
    means: Sequence[dict[str, Any]],
    metrics: Sequence[str],
    deltas: Sequence[tuple[str, str]],
) -> None:
    """Add the rows of means, without those by branch: they are in the files."""
    previous = None
    rows: dict[tuple[str, str], dict[tuple[str, str], dict[str, Any]]] = {}
    for mean in means:
        rows.setdefault((mean["group"], mean["tier"]), {})[mean["metric"], mean["system"]] = mean
    for (group, tier), row in rows.items():
        if group != previous:
            shown.add_section()
            previous = group
        first = next(iter(row.values()))
        cells = []
        for metric in metrics:
            of_metric = [row[metric, system] for system in table.systems]
            cells += [_styled(mean_text(mean), False, mean["mean"] is None) for mean in of_metric]
            for system, control in deltas:
                difference = row[metric, system][f"delta_{control}"]
                cells.append(_styled(number(difference, metric, signed=True), False, difference is None))
        name = f"{_name(first)} ({first['expected']})"
        shown.add_row(name, *cells, style="bold" if tier == ALL else None)


def _best(texts: dict[str, str]) -> set[str]:
    """The systems with the highest score as printed, ties included; none where there is only one system."""
    numbers = {system: float(text) for system, text in texts.items() if text != GAP}
    return (
        {system for system, value in numbers.items() if value == max(numbers.values())}
        if len(texts) > 1
        else set()
    )


def _styled(text: str, best: bool, gap: bool) -> str:
    if gap:
        return f"[red]{text}[/red]"
    return f"[bold]{text}[/bold]" if best else text


def print_comparison(console: Console, result: Comparison) -> None:
    """Print a comparison of two systems: every direction, then the groups; one table a metric."""
    confidence = f"{result.settings.confidence:.0%}"
    for metric in result.settings.metrics:
        shown = _plain_table(f"{label(metric)}, {result.testset}: {result.system} − {result.control}")
        shown.add_column("direction", no_wrap=True)
        for name in (
            result.system,
            result.control,
            "Δ",
            f"{confidence} interval",
            "p, bootstrap",
            "p, randomised",
        ):
            shown.add_column(name, justify="right", no_wrap=True)
        rows = [row for row in result.directions if row.metric == metric]
        for row in rows:
            shown.add_row(
                *(row.direction, number(row.score, metric), number(row.control_score, metric)),
                *_difference_cells(row, metric),
                _p_value(row.p_bootstrap_holm),
                _p_value(row.p_randomisation_holm),
            )
        shown.add_section()
        for group in result.groups:
            if group.metric == metric and group.branch == ALL:
                shown.add_row(
                    *(f"{set_name(*group.place)} ({group.directions})", "", f"better in {group.better}"),
                    *_difference_cells(group, metric),
                    _p_value(group.p),
                    "",
                    style="bold" if group.tier == ALL else None,
                )
        _print_whole(console, shown)
        for signature in sorted({row.signature for row in rows}):
            console.print(f"{label(metric)}: {signature}", style="dim", highlight=False, soft_wrap=True)
    console.print(
        "p of a direction: paired tests, corrected over the directions (Holm). p of a group: bootstrap of "
        "the mean, drawing the same segments in every direction. * p < 0.05",
        style="dim",
        highlight=False,
    )


def _difference_cells(row: DirectionResult | GroupResult, metric: str) -> tuple[str, str]:
    low, high = number(row.low, metric, signed=True), number(row.high, metric, signed=True)
    return number(row.delta, metric, signed=True), f"[{low}, {high}]".replace("[", "\\[")


def _p_value(value: float | None) -> str:
    if value is None:
        return GAP
    return f"{value:.4f}{'*' if value < 0.05 else ' '}"
