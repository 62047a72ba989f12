"""Prints every rule as Snakemake understood it, as JSON: describe_rules.py SNAKEFILE CONFIG."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, OutputSettings, ResourceSettings


def names(items: Any) -> list[str | None]:
    """The names of a rule's inputs, outputs or params; None for one without."""
    return [name for name, _ in items._allitems()]


def main(snakefile: Path, config: Path) -> None:
    with SnakemakeApi(OutputSettings(verbose=True)) as api:
        workflow = api.workflow(
            resource_settings=ResourceSettings(cores=2),
            config_settings=ConfigSettings(configfiles=[config]),
            snakefile=snakefile,
        )._workflow
        described = [
            {
                "name": rule.name,
                "file": Path(str(rule.snakefile)).name,
                "docstring": rule.docstring,
                "input": names(rule.input),
                "output": names(rule.output),
                "outputs": [str(file) for file in rule.output],
                "directories": [str(file) for file in rule.output if file.is_directory],
                "params": names(rule.params),
                "wildcards": sorted(rule.wildcard_names),
                "log": [str(file) for file in rule.log],
                "benchmark": str(rule.benchmark or ""),
                "conda": str(rule.conda_env or ""),
                "resources": [name for name in rule.resources if not name.startswith("_")],
                "command": rule.shellcmd,
                "local": rule.name in workflow._localrules,
                "runs": rule.shellcmd is None and not rule.norun,
            }
            for rule in workflow.rules
        ]
    print(json.dumps(described))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
