"""The smoke run on a real SLURM of one node with pretend GPUs (tests/slurm): what is asked for, what happens.

Needs root and Debian's packages munge, slurmctld, slurmd and slurm-client; else skips.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.workflow.slurm_cluster import (
    MARKS,
    PROFILE,
    SCRIPTS,
    SMALLER,
    R,
    SmokeRun,
    comment_of,
    jobs,
    read,
    wait_until,
)

pytestmark = MARKS


def own_resources(rule: str) -> dict[str, Any]:
    """What a rule's own ``resources:`` say of memory and time; the profile's defaults do not replace them."""
    text = "".join(path.read_text(encoding="utf-8") for path in sorted((REPOSITORY / "rules").glob("*.smk")))
    (block,) = re.findall(rf"^rule {rule}:\n(?:(?: .*)?\n)*", text, re.M)
    found = dict(re.findall(r"^ {8}(mem_mb|runtime)=\"?(\w+)\"?,$", block, re.M))
    if found.get("runtime", "").endswith("h"):
        found["runtime"] = str(60 * int(found["runtime"][:-1]))
    return found


def expected(rule: str) -> dict[str, str]:
    """What sbatch is to ask for, by the rule and the profile; a first attempt."""
    changed = PROFILE["set-resources"].get(rule, {})
    resources = {**PROFILE["default-resources"], **own_resources(rule), **changed}
    minutes = eval(str(resources["runtime"]), {"attempt": 1})
    days, rest = divmod(minutes, 1440)
    gpus = changed.get("gpu", 0)
    return {
        "MinMemoryNode": str(resources["mem_mb"]),
        "TimeLimit": (f"{days}-" if days else "") + f"{rest // 60:02}:{rest % 60:02}:00",
        "TresPerJob": f"gres:gpu:{gpus}" if gpus else "",
        "CPUs/Task": str(PROFILE["set-threads"].get(rule, 1)),
        "Partition": "gpu" if rule.startswith("train") else "cpu",
        "Requeue": "1",
        "NumNodes": "1",
    }


def megabytes(text: str) -> str:
    """``16000M``, ``15.625G`` → ``16000``."""
    number, unit = re.fullmatch(r"([\d.]+)([MG]?)", text).groups()  # type: ignore[union-attr]
    return f"{float(number) * (1024 if unit == 'G' else 1):.0f}"


def test_the_run_ends_with_scores_and_no_job_failed(slurm_run: SmokeRun) -> None:
    scores = list((slurm_run.workflow.folder / R / "scores").rglob("*.json"))
    assert len(scores) == 4 * len(SMALLER["directions"])
    output = slurm_run.result.output
    assert "BLEU" in output[output.rindex("steps (100%) done") :]
    assert {job["JobState"] for job in slurm_run.jobs} == {"COMPLETED"}


def test_every_job_asked_for_what_the_profile_says(slurm_run: SmokeRun) -> None:
    on_the_login_node = {"download", "fetch", "tables", "costs", "page", "all"}
    submitted = {comment_of(job)[0] for job in slurm_run.jobs}
    assert {"train_baseline", "train_specialised", "activations", "translate", "score"} <= submitted
    assert not submitted & on_the_login_node
    for job in slurm_run.jobs:
        rule = comment_of(job)[0]
        wanted = expected(rule)
        got = {key: job.get(key, "") for key in wanted}
        got["MinMemoryNode"] = megabytes(got["MinMemoryNode"])
        # one node may be written as a range
        got["NumNodes"] = got["NumNodes"].partition("-")[0]
        assert got == wanted, rule


def test_two_trainings_side_by_side_got_different_gpus(slurm_run: SmokeRun) -> None:
    together = [seen for seen in slurm_run.devices if {"baseline", "second"} <= set(seen)]
    assert together, f"they never ran at the same time: {slurm_run.devices}"
    for seen in together:
        assert {seen["baseline"], seen["second"]} <= {"0", "1", "2", "3"}
        assert seen["baseline"] != seen["second"]


def test_a_second_run_submits_nothing(slurm_run: SmokeRun) -> None:
    assert slurm_run.workflow.plan(overrides=SMALLER).nothing_to_do


def test_an_impossible_request_is_refused_and_not_scaled_down(slurm_run: SmokeRun) -> None:
    before = {job["JobId"] for job in jobs()}
    workflow = slurm_run.workflow.with_changes({"train_baseline": {"gpu": 9}})
    target = f"{R}/training/greedy/model.json"
    overrides = {**SMALLER, "systems": {"greedy": {"training": {"micro_batches": 9}}}}
    refused = workflow.run("--retries", "0", "--", target, overrides=overrides, timeout=600)
    assert refused.status != 0
    assert "Requested node configuration is not available" in refused.output
    assert "train_baseline" in refused.output
    # SLURM keeps a record of what it refused: it asked for nine, and was never run
    for job in (job for job in jobs() if job["JobId"] not in before):
        assert (job["JobState"], job["TresPerJob"], job["NodeList"]) == ("FAILED", "gres:gpu:9", "")
    assert not (workflow.folder / R / "training/greedy").exists()


def test_a_training_that_finds_no_gpu_on_its_node_makes_nothing(slurm_run: SmokeRun) -> None:
    """A GPU partition whose nodes have the CPU build of PyTorch: fairseq would train on the CPU for weeks."""
    workflow = slurm_run.workflow
    target = f"{R}/training/hopeless/model.json"
    overrides = {**SMALLER, "systems": {"hopeless": {}}}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("NEURON_SPECIALIZATION_PRETEND_GPUS")
        refused = workflow.run("--retries", "0", "--", target, overrides=overrides, timeout=600)
    assert refused.status != 0
    assert "the training of hopeless asks for 1 GPU and none can be used" in refused.output
    assert "is the CPU build" in refused.output and "next: " in refused.output
    assert not list((workflow.folder / R / "training").glob("hopeless/*"))


def test_the_scripts_leave_other_clusters_alone(slurm_cluster: None, tmp_path: Path) -> None:
    job = read("sbatch", "--parsable", "--output=/dev/null", "--wrap=sleep 120").strip()

    def runs() -> bool:
        return "RUNNING" in read("squeue", "--noheader", f"--job={job}", "--Format=State")

    wait_until(runs, "a job that nothing keeps waiting", seconds=60)
    subprocess.run([SCRIPTS / "down.sh", tmp_path / "other"], check=True, timeout=180)
    up = subprocess.run([SCRIPTS / "up.sh", tmp_path / "other"], capture_output=True, text=True, timeout=180)
    assert up.returncode == 1 and "left alone" in up.stderr
    assert runs()
    read("scancel", job)
