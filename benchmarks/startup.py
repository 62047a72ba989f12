"""Start-up: interpreter starts of the commands a demonstration runs; `snakemake` before its first job.

A command is started with what it imports when it works. The reference's scripts import torch and fairseq
wherever they start; what that would cost for the same commands is the other side of the ratio. The trainer's
own processes, which need both, are on neither side. How often a demonstration starts each command is counted
in its plan.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import common

AIM = 0.5
# command → what it imports besides what `--help` needs
IMPORTS: dict[str, list[str]] = {
    "fetch": ["requests"],
    "corpus": [],
    "vocabulary": ["sentencepiece"],
    "binarize": ["sentencepiece"],
    "train": [],
    "activations": ["torch", "fairseq"],
    "masks": ["numpy"],
    "overlap": ["numpy"],
    "export": ["torch", "ctranslate2"],
    "translate": ["ctranslate2", "sentencepiece"],
    "score": ["sacrebleu"],
    "compare": ["sacrebleu", "numpy"],
    "tables": ["rich.table"],
    "evaluation-tables": [],
    "costs": [],
    "perplexity": [],
    "figures": ["matplotlib.pyplot"],
    "report": ["jinja2"],
}
ONE_RULE = 'rule all:\n    output: "made"\n    shell: "touch {output}"\n'


def start_of(command: str, modules: list[str]) -> list[str]:
    """A command line that starts a command with its imports and ends before its work."""
    imports = "".join(f"import {module}\n" for module in modules)
    code = f"{imports}from neuron_specialization.cli import main\nmain([{command!r}, '--help'])"
    return [sys.executable, "-c", code]


def commands_in(plan: str) -> Counter[str]:
    """How often a plan (``snakemake -n --printshellcmds``) starts each command."""
    return Counter(re.findall(r"-m neuron_specialization ([a-z-]+)", plan))


def main() -> None:
    parser = common.arguments(__doc__)
    options = parser.parse_args()
    ways: dict[str, Callable[[], common.Sample]] = {
        name: partial(common.timed_command, start_of(name, modules)) for name, modules in IMPORTS.items()
    }
    snakemake = [sys.executable, "-m", "snakemake", "--cores", "1", "--dry-run"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        demo = ["--snakefile", str(common.ROOT / "Snakefile"), "--directory", scratch, "--printshellcmds"]
        demo += ["--configfile", str(common.ROOT / "config.yaml"), "--quiet", "host"]
        common.timed_command([*snakemake, *demo], output=folder / "log")
        counts = commands_in((folder / "log").read_text(encoding="utf-8"))
        if set(counts) != set(IMPORTS):
            odd = ", ".join(sorted(set(counts) ^ set(IMPORTS)))
            sys.exit(f"not both in the plan and in IMPORTS: {odd}")
        (folder / "Snakefile").write_text(ONE_RULE, encoding="utf-8")
        ways["torch and fairseq"] = lambda: common.timed_command(
            [sys.executable, "-c", "import torch, fairseq"]
        )
        ways["plan"] = lambda: common.timed_command(
            [*snakemake, "--configfile", str(common.ROOT / "configs" / "smoke.yaml")], output=folder / "log"
        )
        ways["plan of one rule"] = lambda: common.timed_command(
            [*snakemake, "--snakefile", str(folder / "Snakefile"), "--directory", scratch],
            output=folder / "log",
        )
        samples = common.interleave(ways, options.rounds)
    starts = counts.total()
    ours = [
        sum(samples[name][number].cpu * count for name, count in counts.items())
        for number in range(options.rounds)
    ]
    theirs = [starts * sample.cpu for sample in samples["torch and fairseq"]]
    ratio = common.ratio(ours, theirs)
    plan = [sample.wall for sample in samples["plan"]]
    rows = [
        common.Row(
            f"start-ups of the {starts} commands of a demo / the same, each importing torch and fairseq",
            common.shown(ratio),
            f"≤ {AIM}",
            ratio["median"] <= AIM,
        ),
        common.Row("… processor seconds together", common.shown(common.spread(ours))),
        common.Row("`snakemake -n` of the smoke configuration, seconds", common.shown(common.spread(plan))),
        common.Row(
            "… of a workflow of one rule: Snakemake's own start, seconds",
            common.shown(common.spread([sample.wall for sample in samples["plan of one rule"]])),
        ),
    ]
    common.write_result("startup", rows, {"starts": dict(counts), "ratio": ratio}, samples=samples)


if __name__ == "__main__":
    main()
