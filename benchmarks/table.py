"""Make docs/benchmarks.md of benchmarks/results/*.json. Nothing in it is typed by hand.

python benchmarks/table.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common import RESULTS, ROOT

ORDER = (
    *(
        "training_throughput",
        "waiting",
        "recipe",
        "vocabulary",
        "specialised_step_d128",
        "specialised_step_demo",
        "specialised_step_d512",
        "ffn_layer",
        "memory",
        "data_loading",
    ),
    *("activations", "masks_paper_size", "published_table", "translation", "startup"),
)
HEAD = """# Benchmarks

Made by `make bench`, which runs the programs in `benchmarks/` and writes this page from
`benchmarks/results/*.json` (`make bench BENCH=ffn_layer` runs one). A ratio is taken between two ways that
ran in turn on one machine, three rounds at least: the median, and in brackets the range over the rounds.
Ratios of processor time, unless a line says otherwise; tokens a second and seconds of an update are by the
clock. *Reference* is the reference implementation's way, written anew in `benchmarks/`. Lines that miss
their aim say so. What needs a demonstration was measured on the present one.

| what | measured | aim | reached |
|---|---|---|---|
"""


def rows_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a result; of published_table.json, which keeps plain numbers, made here."""
    if "rows" in result:
        rows: list[dict[str, Any]] = result["rows"]
        return rows
    if "limit_seconds" in result:
        seconds, limit = result["seconds_on_two_idle_cores"], result["limit_seconds"]
        work = f"scoring of {result['files']} published outputs, half their processor seconds"
        return [{"work": work, "figure": f"{seconds}", "target": f"≤ {limit}", "met": seconds <= limit}]
    return []


def line(row: dict[str, Any]) -> str:
    reached = {True: "yes", False: "**no**", None: ""}[row["met"]]
    return f"| {row['work']} | {row['figure']} | {row['target']} | {reached} |"


def page(results: Path) -> str:
    """The page, of the results that are there."""
    text, machines = HEAD, []
    for name in ORDER:
        path = results / f"{name}.json"
        if not path.exists():
            continue
        result = json.loads(path.read_text(encoding="utf-8"))
        text += "".join(line(row) + "\n" for row in rows_of(result))
        if "machine" in result:
            found = result["machine"]
            threads = f", {found['threads']} threads" if found["threads"] else ""
            machines.append(
                f"- `{name}`: `{result['command']}`; {found['processor']}, {found['cores']} cores{threads},"
                f" load {found['load_average']} at the end, Python {found['python']}, torch {found['torch']}"
            )
    return text + "\nMeasured with:\n\n" + "\n".join(machines) + "\n"


def main() -> None:
    (ROOT / "docs" / "benchmarks.md").write_text(page(RESULTS), encoding="utf-8")


if __name__ == "__main__":
    main()
