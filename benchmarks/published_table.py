"""How long `published-table` takes for 120 outputs: 2 systems, 60 directions, 2,009 sentences each.

Of the published outputs 20 are at hand (NS_SHARED/published/outputs); each stands for six directions here:
into English as another source language, from English as another target language, whose references are read
and counted anew. Prints and writes benchmarks/results/published_table.json: wall time, and processor time,
which a busy machine does not lengthen; half of it is the wall time on two idle cores.

    python benchmarks/published_table.py [--outputs FOLDER] [--processes 2]
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("NS_SHARED", ROOT.parent / "shared"))
LIMIT_SECONDS = 120


def replicate(outputs: Path, folder: Path) -> int:
    """Write ``<system>/<direction>/generate-test.txt`` for the 60 directions of EC30; return how many."""
    from neuron_specialization.directions import known_languages

    table = known_languages()
    codes = [code for code in table if table[code].ec30_tier in ("high", "medium", "low")]
    written = 0
    for system in ("baseline", "ns"):
        found = {path.name.split(".")[1]: path for path in sorted(outputs.glob(f"{system}.*.gz"))}
        into = [name for name in found if name.endswith("-en")]
        out_of = [name for name in found if name.startswith("en-")]
        for number, code in enumerate(codes):
            for name, direction in (
                (into[number % len(into)], f"{code}-en"),
                (out_of[number % len(out_of)], f"en-{code}"),
            ):
                with gzip.open(found[name], "rt", encoding="utf-8") as handle:
                    text = handle.read()
                # the source's tag: of the direction that it stands for
                for old in name.split("-"):
                    text = text.replace(f"\t__{old}__ ", f"\t__{direction.split('-')[0]}__ ")
                path = folder / system / direction / "generate-test.txt"
                path.parent.mkdir(parents=True)
                path.write_text(text, encoding="utf-8")
                written += 1
    return written


def measure(folder: Path, processes: int) -> tuple[float, float]:
    """Run the command; return wall and processor seconds."""
    command = [sys.executable, "-m", "neuron_specialization", "published-table", "--json"]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [*command, "--outputs", str(folder), "--processes", str(processes)],
        check=True,
        capture_output=True,
        text=True,
    )
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert len(json.loads(done.stdout)["scores"]) == 120
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--outputs", type=Path, default=SHARED / "published" / "outputs")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/published_table.json")
    arguments = parser.parse_args()
    if not arguments.outputs.is_dir():
        sys.exit(f"no published outputs at {arguments.outputs}: set NS_SHARED, or give --outputs")
    with tempfile.TemporaryDirectory() as temporary:
        files = replicate(arguments.outputs, Path(temporary))
        wall, cpu = measure(Path(temporary), arguments.processes)
    result = {
        "files": files,
        "processes": arguments.processes,
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
        "seconds_on_two_idle_cores": round(cpu / 2, 1),
        "limit_seconds": LIMIT_SECONDS,
        "load_average": round(os.getloadavg()[0], 1),
        "cpus": os.cpu_count(),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
