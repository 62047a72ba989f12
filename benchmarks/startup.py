"""Start-up: from `snakemake` to its first job, and the interpreter starts of the commands a demo runs.

Each command is started with what it imports when it works, as far as `--help` shows it: that
imports a command's module, not what it computes with. How often a demo starts each comes from its jobs.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import common

# how often `make demo` starts each command (18 directions, 3 systems, one selection, one test set)
STARTS = {
    "fetch": 1,
    "corpus": 1,
    "vocabulary": 1,
    "binarize": 1,
    "train": 3,
    "activations": 1,
    "masks": 1,
    "overlap": 1,
    "export": 3,
    "translate": 54,
    "score": 54,
    "tables": 1,
    "figures": 1,
}


def main() -> None:
    parser = common.arguments(__doc__)
    options = parser.parse_args()
    start = [sys.executable, "-m", "neuron_specialization"]
    ways = {
        f"{name} --help": lambda name=name: common.timed_command([*start, name, "--help"]) for name in STARTS
    }
    snakemake = [sys.executable, "-m", "snakemake", "--cores", "1", "--quiet", "all"]
    with tempfile.TemporaryDirectory() as scratch:
        ways["snakemake -n"] = lambda: common.timed_command(
            [*snakemake, "-n", "--configfile", str(common.ROOT / "configs" / "smoke.yaml")],
            output=Path(scratch) / "log",
        )
        ways["import fairseq"] = lambda: common.timed_command([sys.executable, "-c", "import fairseq"])
        ways["python"] = lambda: common.timed_command([sys.executable, "-c", ""])
        samples = common.interleave(ways, options.rounds)
    sums = [
        sum(samples[f"{name} --help"][number].cpu * count for name, count in STARTS.items())
        for number in range(options.rounds)
    ]
    total, plan = common.spread(sums), common.spread([s.cpu for s in samples["snakemake -n"]])
    one = common.spread([s.cpu for s in samples["import fairseq"]])
    starts = sum(STARTS.values())
    rows = [
        common.Row(
            f"start-up of the {starts} commands of a demo, processor seconds together", common.shown(total)
        ),
        common.Row("… one start that imports torch and fairseq, for comparison", common.shown(one)),
        common.Row("`snakemake -n` of the smoke configuration, processor seconds", common.shown(plan)),
    ]
    common.write_result("startup", rows, {"starts": STARTS, "together": total}, samples=samples)


if __name__ == "__main__":
    main()
