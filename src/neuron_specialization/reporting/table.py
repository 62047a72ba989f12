"""A table as data, and its renderings: CSV, JSON, Markdown, LaTeX. The report page renders it as HTML."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

GAP = "–"


@dataclass(frozen=True)
class Cell:
    """What is shown, what it is sorted by, and its significance mark (``*`` or ``**``)."""

    text: str
    value: float | str | None = None
    mark: str = ""

    @property
    def gap(self) -> bool:
        """Whether there is nothing here."""
        return self.text.startswith(GAP)


@dataclass(frozen=True)
class Column:
    """A heading (lines apart by ``\\n``) and what it holds: ``text`` or ``number``."""

    title: str
    kind: str = "number"


@dataclass(frozen=True)
class Row:
    """Cells, one a column; ``emphasis`` marks a total, ``section`` is where it belongs."""

    cells: list[Cell]
    emphasis: bool = False
    section: str = ""


@dataclass(frozen=True)
class Table:
    """A table with its caption, its notes and the signatures of its numbers.

    ``records`` are the numbers themselves, one mapping a row and quantity, for CSV and JSON.
    """

    name: str
    caption: str
    columns: list[Column]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    signatures: list[str] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)


def text_cell(text: str) -> Cell:
    """A cell of words."""
    return Cell(text, text)


def number_cell(
    value: float | None, decimals: int = 2, *, signed: bool = False, mark: str = "", extra: str = ""
) -> Cell:
    """A number with its decimals, a true minus sign, and what follows it (an interval)."""
    if value is None:
        return Cell(GAP + extra)
    return Cell(fixed(value, decimals, signed=signed) + extra, value, mark)


def fixed(value: float, decimals: int = 2, *, signed: bool = False) -> str:
    """``-0.3`` → ``−0.30``; what rounds to zero has no sign."""
    if round(value, decimals) == 0:
        return f"{0:.{decimals}f}"
    return f"{value:{'+' if signed else ''},.{decimals}f}".replace("-", "−")


def to_csv(tables: Sequence[Table]) -> str:
    """The records of all tables under one header: every column that any of them has."""
    records = [record for table in tables for record in table.records]
    fields = list(dict.fromkeys(key for record in records for key in record))
    handle = io.StringIO()
    writer = csv.DictWriter(handle, fields, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {key: "" if value is None else value for key, value in record.items()} for record in records
    )
    return handle.getvalue()


def to_json(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """Each table with caption, notes, signatures and records."""
    return [
        {
            "name": table.name,
            "caption": table.caption,
            "notes": table.notes,
            "signatures": table.signatures,
            "records": table.records,
        }
        for table in tables
    ]


def to_markdown(tables: Sequence[Table]) -> str:
    """The tables one after another, with notes and signatures under each."""
    lines = []
    for table in tables:
        lines += [f"## {table.caption}", ""]
        lines.append(_markdown_row([column.title.replace("\n", " ") for column in table.columns]))
        lines.append(_markdown_row(["---:" if c.kind == "number" else "---" for c in table.columns]))
        for row in table.rows:
            cells = [cell.text + _without_emphasis(cell.mark) for cell in row.cells]
            lines.append(_markdown_row([f"**{cell}**" for cell in cells] if row.emphasis else cells))
        lines += ["", *(_without_emphasis(note) + "  " for note in table.notes)]
        lines += [f"`{signature}`  " for signature in table.signatures]
        lines.append("")
    return "\n".join(lines)


def _without_emphasis(text: str) -> str:
    return text.replace("*", "\\*")


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


# lines may break at the bars of a signature
BAR = r"|\allowbreak{}"
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": "$-$",
    "–": "--",
    "→": r"$\rightarrow$",
    "Δ": r"$\Delta$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "<": r"$<$",
    ">": r"$>$",
    "…": r"\ldots{}",
}


def latex(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(_LATEX.get(character, character) for character in text)


# columns of a LaTeX table besides the first; a wider one is continued in a further table
_LATEX_COLUMNS = 8


def to_latex(tables: Sequence[Table]) -> str:
    """``table`` environments, several for a table of many columns; needs booktabs and graphicx.

    A table that is still wider than the line is made smaller to fit.
    """
    head = "% \\usepackage{booktabs,graphicx}; the marks are explained under each table\n"
    return head + "\n".join(_latex_table(part) for table in tables for part in _parts(table))


def _parts(table: Table) -> list[Table]:
    """The table, or its columns in several, each with the first column; notes under the last."""
    rest = range(1, len(table.columns))
    if len(rest) <= _LATEX_COLUMNS:
        return [table]
    count = -(-len(rest) // _LATEX_COLUMNS)
    size = -(-len(rest) // count)
    parts = []
    for number in range(count):
        kept = [0, *rest[number * size : (number + 1) * size]]
        last = number == count - 1
        parts.append(
            replace(
                table,
                name=table.name if number == 0 else f"{table.name} {number + 1}",
                caption=f"{table.caption} ({number + 1} of {count})",
                columns=[table.columns[index] for index in kept],
                rows=[replace(row, cells=[row.cells[index] for index in kept]) for row in table.rows],
                notes=table.notes if last else [],
                signatures=table.signatures if last else [],
            )
        )
    return parts


def _latex_table(table: Table) -> str:
    alignment = "".join("r" if column.kind == "number" else "l" for column in table.columns)
    lines = [
        r"\begin{table}[t]",
        r"\centering\small",
        rf"\caption{{{latex(table.caption)}}}",
        rf"\label{{tab:{re.sub('[^a-z0-9]+', '-', table.name.lower())}}}",
        r"\sbox{0}{%",
        rf"\begin{{tabular}}{{@{{}}{alignment}@{{}}}}",
        r"\toprule",
    ]
    heights = [column.title.split("\n") for column in table.columns]
    for level in range(max(map(len, heights))):
        lines.append(_latex_row([latex(title[level]) if level < len(title) else "" for title in heights]))
    lines.append(r"\midrule")
    section = table.rows[0].section if table.rows else ""
    for row in table.rows:
        if row.section != section:
            lines.append(r"\midrule")
            section = row.section
        cells = [latex(cell.text) + (f"$^{{{cell.mark}}}$" if cell.mark else "") for cell in row.cells]
        lines.append(_latex_row([rf"\textbf{{{cell}}}" for cell in cells] if row.emphasis else cells))
    lines += [r"\bottomrule", r"\end{tabular}}%"]
    lines.append(r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox{0}}\else\usebox{0}\fi")
    notes = [latex(note) for note in table.notes]
    notes += [rf"\texttt{{{latex(signature).replace('|', BAR)}}}" for signature in table.signatures]
    if notes:
        lines.append(rf"\\[2pt]\parbox{{\linewidth}}{{\footnotesize {' '.join(notes)}}}")
    return "\n".join([*lines, r"\end{table}", ""])


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
