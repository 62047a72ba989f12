"""Every rule keeps the rules of docs/architecture.md: documented, named, logged, quoted, one flag a line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from neuron_specialization.cli import COMMANDS, cli
from tests.conftest import REPOSITORY

# what a field of a command may be that is not a file or a parameter of the rule
FIELD = re.compile(r"\{(?P<name>[a-z_.]+)(?P<quoted>:q)?\}")
LONG = {
    *("corpus", "vocabulary", "binarize", "train_baseline", "train_specialised", "activations"),
    "magnitude_finetune",
    *("export_dense", "export_masked", "export_zero_shot", "translate", "comet"),
    *("take_over_model", "take_over_data_bin"),
}
TRAININGS = {"train_baseline", "train_specialised", "magnitude_finetune"}


@cache
def described(config: str) -> list[dict[str, Any]]:
    script = Path(__file__).with_name("describe_rules.py")
    done = subprocess.run(
        [sys.executable, str(script), str(REPOSITORY / "Snakefile"), str(REPOSITORY / config)],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr
    rules: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return rules


def all_rules() -> list[dict[str, Any]]:
    """The rules of both kinds of corpus, and those that only some configurations have, each once."""
    configs = ("configs/ec30-released.yaml", "tests/workflow/every_rule.yaml")
    rules = {rule["name"]: rule for config in configs for rule in described(config)}
    return list(rules.values())


def commands() -> list[dict[str, Any]]:
    """The rules that run something; the others only name targets."""
    return [rule for rule in all_rules() if rule["command"] is not None]


def written(rule: dict[str, Any]) -> list[str]:
    """A rule's command as it is written, a line each, without the backslashes at their ends."""
    text = (REPOSITORY / "rules" / rule["file"]).read_text(encoding="utf-8")
    found = re.search(rf"^ *rule {rule['name']}:\n.*?shell:\s+\"\"\"\n(.*?)\"\"\"", text, re.M | re.S)
    assert found, rule["name"]
    return [line.strip().removesuffix("\\").strip() for line in found[1].strip().splitlines()]


def failing(rules: list[dict[str, Any]], broken: Any) -> list[str]:
    """The names of the rules for which ``broken`` is true; a test wants none."""
    return [rule["name"] for rule in rules if broken(rule)]


def test_all_rules_are_seen() -> None:
    names = {rule["name"] for rule in all_rules()}
    assert LONG | {"fetch", "masks", "overlap", "score", "tables", "testset", "unpack", "all"} <= names


def test_the_targets_that_messages_and_pages_name_need_no_wildcard() -> None:
    files = [
        *(REPOSITORY / "src").rglob("*.py"),
        *REPOSITORY.glob("*.md"),
        *(REPOSITORY / "docs").glob("*.md"),
    ]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    named = set(re.findall(r"snakemake --cores (?:all|\d+) +(?:-- )?([a-z_]+)\b(?![/.])", text))
    whole = {rule["name"] for rule in all_rules() if not rule["wildcards"]}
    assert {"tables", "data"} <= named <= whole


def test_documented() -> None:
    assert not failing(all_rules(), lambda rule: not re.match(r"[A-Z].*[.]$", rule["docstring"] or ""))


def test_docstring_shows_the_wildcards() -> None:
    # a job's docstring is what a run prints of it: jobs of one rule must be told apart
    assert not failing(
        commands(),
        lambda rule: any(f"{{wildcards.{name}}}" not in rule["docstring"] for name in rule["wildcards"]),
    )


def test_inputs_outputs_and_params_have_names() -> None:
    assert not failing(all_rules(), lambda rule: None in [*rule["input"], *rule["output"], *rule["params"]])


def test_logged() -> None:
    assert not failing(commands(), lambda rule: len(rule["log"]) != 1)


def test_the_log_is_written() -> None:
    assert not failing(commands(), lambda rule: "{log:q}" not in written(rule)[-1])


def test_no_python_in_rules() -> None:
    assert not failing(all_rules(), lambda rule: rule["runs"])


def test_long_jobs_are_measured() -> None:
    assert not failing(commands(), lambda rule: rule["name"] in LONG and not rule["benchmark"])


def test_software_is_declared() -> None:
    assert not failing(commands(), lambda rule: not rule["conda"].endswith("envs/workflow.yaml"))


def test_the_only_gpu_resource_is_gpu() -> None:
    assert not failing(all_rules(), lambda rule: {"gpus", "nvidia_gpu", "gres"} & set(rule["resources"]))


def test_downloads_and_tables_stay_on_the_login_node() -> None:
    # compute nodes often have no network, and a queue's wait is longer than these jobs
    local = {rule["name"] for rule in commands() if rule["local"]}
    assert local == {
        "fetch",
        "tables",
        "costs",
        "perplexity",
        "training_figure",
        "mask_figures",
        "perplexity_figure",
        "evaluation_tables",
        "difference_figure",
        "sweep_figure",
        "activity_figures",
        "page",
    }


def test_trainings_declare_what_they_need() -> None:
    trainings = [rule for rule in commands() if rule["name"] in TRAININGS]
    assert len(trainings) == 3
    assert not failing(trainings, lambda rule: not {"gpu", "mem_mb", "runtime"} <= set(rule["resources"]))
    # what the scheduler granted, never what a configuration says
    assert not failing(trainings, lambda rule: "--gpus {resources.gpu:q}" not in rule["command"])


def test_no_checkpoint_folder_is_an_output() -> None:
    # Snakemake deletes a job's outputs before it runs the job again: a training could not resume
    assert not failing(commands(), lambda rule: any("checkpoints" in file for file in rule["outputs"]))
    assert not failing(commands(), lambda rule: rule["name"] != "unpack" and rule["directories"])


@pytest.mark.parametrize("rule", commands(), ids=lambda rule: rule["name"])
def test_command(rule: dict[str, Any]) -> None:
    lines = written(rule)
    head = re.fullmatch(
        r"python -m neuron_specialization (?P<command>[a-z-]+)"
        r"(?: \{params\.name:q\}| \{wildcards\.system:q\} \{wildcards\.control:q\})?",
        lines[0],
    )
    assert head and head["command"] in COMMANDS, lines[0]
    command = cli.get_command(None, head["command"])  # type: ignore[arg-type]
    assert command is not None
    known = {option for parameter in command.params for option in parameter.opts}
    for line in lines[1:-1]:
        # one flag with its value a line, or a parameter that holds both
        flag = re.fullmatch(r"(?:(?P<flag>--[a-z-]+) )?\S+", line)
        assert flag, line
        assert flag["flag"] is None or flag["flag"] in known, f"{head['command']} has no {flag['flag']}"
    for field in FIELD.finditer(rule["command"]):
        assert field["quoted"], f"{field[0]} is not quoted: {{{field['name']}:q}}"
    parameters = set(re.findall(r"\{params\.([a-z_]+)", rule["command"] + rule["docstring"]))
    assert parameters == set(rule["params"]), "params that nothing uses only cause reruns"


def test_input_functions_have_names() -> None:
    for path in (REPOSITORY / "rules").glob("*.smk"):
        assert "lambda" not in path.read_text(encoding="utf-8"), path.name


def test_files_stay_small() -> None:
    assert len((REPOSITORY / "Snakefile").read_text(encoding="utf-8").splitlines()) <= 80
    for path in (REPOSITORY / "rules").glob("*.smk"):
        for rule in re.split(r"^rule ", path.read_text(encoding="utf-8"), flags=re.M)[1:]:
            body = rule.split("\n\n\n")[0]
            assert len(body.splitlines()) <= 60, f"{path.name}: {body.splitlines()[0]}"


def test_included_in_pipeline_order() -> None:
    text = (REPOSITORY / "Snakefile").read_text(encoding="utf-8")
    included = re.findall(r'^include: "rules/(\w+)\.smk"$', text, re.M)
    assert set(included) == {path.stem for path in (REPOSITORY / "rules").glob("*.smk")}
    assert included[0] == "common"
    stages = ["data", "train", "activations", "masks", "export", "translate", "score", "report"]
    assert [name for name in included if name in stages] == stages


@pytest.mark.parametrize("profile", ["default", "gpu", "slurm", "ec30"])
def test_profiles(profile: str) -> None:
    text = (REPOSITORY / "profiles" / profile / "config.yaml").read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    # no `code`: Snakemake would retrain after an edit that changes nothing
    assert values["rerun-triggers"] == ["mtime", "params", "input", "software-env"]
    rules = {rule["name"] for rule in all_rules()}
    for key in ("set-resources", "set-threads"):
        assert set(values.get(key, {})) <= rules
    for resources in values.get("set-resources", {}).values():
        assert not {"gpus", "nvidia_gpu", "gres"} & set(resources)
    if profile == "default":
        assert values["resources"] == ["gpu=0"]
