"""What would run: shipped configurations, engines, test sets, profiles; and what is refused."""

from __future__ import annotations

import json
import re
import resource
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from neuron_specialization.config import load_config, systems_by_run
from tests.conftest import REPOSITORY
from tests.workflow.runner import Result, Workflow

SHIPPED = [
    "config.yaml",
    *sorted(str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob("configs/*.yaml")),
]


@pytest.fixture
def demo(tmp_path: Path) -> Workflow:
    return Workflow(tmp_path)


@pytest.fixture
def smoke(tmp_path: Path) -> Workflow:
    return Workflow(tmp_path, config=REPOSITORY / "configs/smoke.yaml")


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configurations_plan(name: str, tmp_path: Path) -> None:
    config = load_config(REPOSITORY / name)
    if config.corpus.source == "local":
        write_own_text(tmp_path / str(config.corpus.path), config.pairs())
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    plan = Workflow(tmp_path, config=REPOSITORY / name).plan()
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    assert plan.status == 0, plan.output
    runs = systems_by_run(config).values()
    scores = len(runs) * len(config.scored_directions()) * len(config.testsets)
    assert plan.jobs["translate"] == plan.jobs["score"] == scores
    trained = [system for system in runs if system.checkpoint is None]
    assert plan.jobs["train_baseline"] == sum(system.init is None for system in trained)
    assert plan.jobs["train_specialised"] == sum(system.init is not None for system in trained)
    assert plan.jobs["tables"] == 1
    # of the processor: a busy machine is no failure
    assert seconds < 10


def test_of_many_directions_single_ones_can_be_significant(tmp_path: Path) -> None:
    workflow = Workflow(tmp_path, config=REPOSITORY / "configs/ec30.yaml")
    plan = workflow.plan("--printshellcmds", "--", "results/ec30/comparisons/flores200/ns-baseline.json")
    assert re.findall(r"--samples (\d+) +--trials (\d+)", plan.output) == [("6000", "10000")]


def write_own_text(folder: Path, pairs: list[str]) -> None:
    """The files of a local corpus, a line each."""
    folder.mkdir()
    for name in ("train", "valid", "test"):
        for pair in pairs:
            for code in pair.split("-"):
                (folder / f"{name}.{pair}.{code}").write_text("x\n", encoding="utf-8")


def test_the_plan_says_what_would_train(demo: Workflow) -> None:
    trainings = [message for message in demo.plan().messages() if message.startswith("Train ")]
    models = [message for message in trainings if "updates" in message]
    assert [message.split()[1].rstrip(",") for message in models] == ["baseline", "continued", "ns"]
    updates = load_config(REPOSITORY / "config.yaml").training.max_updates
    assert f"{updates:,} updates" in models[0]


def test_one_pair_of_one_system_from_scratch(demo: Workflow) -> None:
    jobs = demo.plan("--", "results/demo/scores/baseline/heldout/de-en.json").jobs
    assert (jobs["train_baseline"], jobs["translate"], jobs["score"], jobs["export_dense"]) == (1, 1, 1, 1)
    assert not {"train_specialised", "activations", "masks", "tables"} & set(jobs)


@pytest.mark.parametrize(
    ("target", "last", "never"),
    [
        ("data", "binarize", {"train_baseline", "export_dense", "score"}),
        ("models", "export_masked", {"translate", "score", "tables"}),
        ("bundle", "bundle", {"tables", "page"}),
    ],
)
def test_named_targets(demo: Workflow, target: str, last: str, never: set[str]) -> None:
    jobs = demo.plan("--", target).jobs
    assert jobs[last] == 1
    assert not never & set(jobs)


def test_a_target_outside_the_configuration_is_refused(demo: Workflow) -> None:
    # de-fr is not a direction of the demonstration: nothing may be planned for it
    plan = demo.plan("--", "results/demo/scores/ns/heldout/de-fr.json")
    assert plan.status != 0
    assert "MissingRuleException" in plan.output


def test_commands_on_the_report_page_can_be_pasted(tmp_path: Path) -> None:
    """What the page's commands begin with, once the workflow is read."""
    config = tmp_path / "my own.yaml"
    shutil.copy(REPOSITORY / "configs/smoke.yaml", config)
    script = (
        "import os, sys; from pathlib import Path; from snakemake.api import SnakemakeApi;"
        " from snakemake.settings.types import ConfigSettings, ResourceSettings\n"
        "with SnakemakeApi() as api: api.workflow(resource_settings=ResourceSettings(cores=1),"
        " config_settings=ConfigSettings(configfiles=[Path(sys.argv[2])]), snakefile=Path(sys.argv[1]))"
        "._workflow; print(os.environ['NEURON_SPECIALIZATION_COMMAND'])"
    )
    command = [sys.executable, "-c", script, str(REPOSITORY / "Snakefile"), str(config)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert shlex.split(done.stdout) == ["snakemake", "--cores", "all", "--configfile", "my own.yaml"]


def test_systems_without_masks_count_no_activations(smoke: Workflow, tmp_path: Path) -> None:
    smoke.config = changed_config(
        tmp_path, "configs/smoke.yaml", systems={"baseline": {}, "more": {"from": "baseline"}}
    )
    jobs = smoke.plan().jobs
    assert not {"activations", "masks", "overlap", "mask_figures", "export_masked"} & set(jobs)
    assert (jobs["train_baseline"], jobs["train_specialised"], jobs["export_dense"]) == (1, 1, 2)


def test_the_fairseq_engine_needs_no_export(smoke: Workflow) -> None:
    plan = smoke.plan("--printshellcmds", overrides={"translation": {"engine": "fairseq"}})
    assert not {"export_dense", "export_masked"} & set(plan.jobs)
    commands = re.findall(r"neuron_specialization translate +(.*)", plan.output)
    assert len(commands) == 12
    assert all("--engine fairseq --checkpoint results/smoke/training/" in command for command in commands)
    masked = [command for command in commands if "--mask" in command]
    assert len(masked) == 4
    assert all("training/ns/" in command for command in masked)
    assert all("--mask results/smoke/masks/k95/" in command for command in masked)


def test_specialised_models_are_translated_with_their_own_direction(smoke: Workflow) -> None:
    plan = smoke.plan("--printshellcmds")
    for system in ("baseline", "continued", "ns"):
        for direction in ("de-en", "en-es"):
            folder = direction if system == "ns" else "dense"
            model = f"--model results/smoke/models/{system}/{folder} +--direction {direction} "
            assert re.search(model, plan.output), model


def test_training_goes_on_from_its_baseline_under_its_masks(smoke: Workflow) -> None:
    output = smoke.plan("--printshellcmds").output
    trainings = re.findall(r"neuron_specialization train +(.*)", output)
    assert len(trainings) == 3
    by_system = {re.search(r'"system":"(\w+)"', line)[1]: line for line in trainings}  # type: ignore[index]
    assert "--init" not in by_system["baseline"]
    assert "--init results/smoke/training/baseline/model.pt" in by_system["continued"]
    assert "--masks" not in by_system["continued"]
    assert "--init results/smoke/training/baseline/model.pt" in by_system["ns"]
    assert "--masks results/smoke/masks/k95 " in by_system["ns"]
    assert all("--gpus 0 " in line for line in trainings)


def test_testsets(smoke: Workflow, tmp_path: Path) -> None:
    folder = tmp_path / "my tests"
    folder.mkdir()
    testsets = {
        "mine": {"source": "folder", "path": str(folder), "splits": ["dev"]},
        "flores200": {"source": "flores200"},
    }
    plan = smoke.plan("--printshellcmds", overrides={"testsets": testsets})
    assert plan.jobs["testset"] == 2
    assert plan.jobs["score"] == 3 * 12
    assert plan.jobs["fetch"] == 2  # the corpus and FLORES-200; a folder is not downloaded
    assert f"--input '{folder}' " in plan.output
    assert "--splits dev " in plan.output
    # each is held against the training text
    assert len(re.findall(r" --corpus results/smoke/corpus ", plan.output)) >= 2
    assert "keep_out" not in plan.output


def test_a_test_set_kept_out_of_the_training_text_is_read_by_the_corpus_stage(smoke: Workflow) -> None:
    overrides = {"testsets": {"far": {"source": "flores200"}}, "corpus": {"keep_out": ["far"]}}
    plan = smoke.plan("--printshellcmds", "--", "results/smoke/corpus/manifest.json", overrides=overrides)
    (spec,) = re.findall(r'"keep_out":(\{.*?\}\})', plan.output)
    archive = "downloads/flores200_dataset.tar.gz"
    assert json.loads(spec) == {"far": {"source": "flores200", "path": archive, "splits": ["devtest"]}}
    # the archive itself, not the test set made of it: that is held against the corpus
    assert plan.jobs["fetch"] == 2 and "testset" not in plan.jobs


def test_downloads_look_into_a_mirror_first_if_there_is_one(smoke: Workflow) -> None:
    # Snakemake quotes an empty value as nothing at all: the next flag must not be taken for it
    for mirror, flag in ((None, "--mirror= "), ("/mnt/my mirror", "--mirror='/mnt/my mirror' ")):
        overrides = {"mirror": mirror} if mirror else None
        plan = smoke.plan("--printshellcmds", "--", "data", overrides=overrides)
        assert re.search(rf"fetch homeassistant +{re.escape(flag)} *--output downloads/", plan.output), (
            plan.output
        )


def test_local_text(tmp_path: Path) -> None:
    text = tmp_path / "my-text"
    write_own_text(text, ["en-de"])
    (text / "notes.txt").write_text("not text of a pair", encoding="utf-8")
    overrides = {"languages": ["en", "de"], "corpus": {"path": str(text)}}
    workflow = Workflow(tmp_path, config=REPOSITORY / "configs/local.yaml")
    plan = workflow.plan("--verbose", "--printshellcmds", "--", "data", overrides=overrides)
    assert plan.jobs["corpus"] == 1 and plan.jobs["fetch"] == 0
    assert f"--source local             --input {text} " in plan.output
    inputs = re.search(r"^rule corpus:\n    input: (.*)$", plan.output, re.M)
    assert inputs and len(inputs[1].split(", ")) == 6


def changed_config(folder: Path, name: str, **values: Any) -> Path:
    """A copy of a shipped configuration with top-level keys replaced."""
    config = yaml.safe_load((REPOSITORY / name).read_text(encoding="utf-8"))
    path = folder / "changed.yaml"
    path.write_text(yaml.safe_dump(config | values), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"trainning": {}}, "trainning: unknown key; did you mean 'training'?"),
        ({"masks": {"k95": {"treshold": 95}}}, "masks.k95.treshold: unknown key"),
        ({"masks": {"k95": {"k": 100.5}}}, "masks.k95.k:"),
        ({"languages": ["en", "de; touch pwned"]}, "languages.1:"),
    ],
)
def test_bad_configurations_are_refused(smoke: Workflow, overrides: dict[str, Any], told: str) -> None:
    plan = smoke.plan(overrides=overrides)
    assert plan.status != 0
    assert told in plan.output
    assert "Traceback" not in plan.output
    assert not (smoke.folder / "results").exists()


def test_a_key_that_stands_twice_is_refused(smoke: Workflow) -> None:
    twice = smoke.folder / "twice.yaml"
    twice.write_text((REPOSITORY / "configs/smoke.yaml").read_text() + "training: {dropout: 0.2}\n")
    plan = replace(smoke, config=twice).plan()
    assert plan.status != 0 and re.search(
        r"training: in line \d+ and in line \d+\n  where: twice.yaml", plan.output
    )


def test_a_likely_slip_is_told_and_not_refused(smoke: Workflow) -> None:
    plan = smoke.plan(overrides={"masks": {"k95": {"k": 0.95}}})
    assert plan.status == 0
    assert "warning: masks.k95.k is 0.95, in percent" in plan.output


@pytest.mark.skipif(find_spec("MeCab") is not None, reason="the tokenizer for Japanese is installed")
def test_a_metric_that_cannot_be_computed_is_told_before_anything_trains(smoke: Workflow) -> None:
    japanese = {"languages": ["en", "de", "ja"], "tiers": {"low": ["ja"]}}
    plan = smoke.plan(overrides=japanese)
    assert plan.status == 0
    assert "warning: BLEU for en-ja needs a tokenizer" in plan.output and "sacrebleu[ja]" in plan.output
    assert "needs a tokenizer" not in smoke.plan().output


def test_more_cores_than_there_are_is_told(smoke: Workflow) -> None:
    assert "warning: --cores 9999, and this machine has" in smoke.plan("--cores", "9999").output
    assert "warning" not in smoke.plan("--cores", "all").output


def test_several_problems_are_told_at_once(smoke: Workflow) -> None:
    plan = smoke.plan(overrides={"trainning": {}, "model": {"d_modell": 8}, "seed": -1})
    for told in ("trainning", "model.d_modell", "seed"):
        assert told in plan.output


def resources_of(plan: Result) -> dict[str, str]:
    """Rule → the resources and threads that --verbose shows of its first job."""
    blocks = re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)+)", plan.output, re.M)
    shown = {}
    for name, block in reversed(blocks):
        shown[name] = " ".join(re.findall(r"^    (?:threads|resources): .*$", block, re.M))
    return shown


def test_the_default_profile_uses_no_gpu_and_all_cores(demo: Workflow) -> None:
    shown = resources_of(demo.plan("--verbose", "--cores", "2"))
    assert "gpu=0" in shown["train_baseline"] and "threads: 2" in shown["train_baseline"]
    # two specialised systems train side by side on two cores
    assert "gpu=0" in shown["train_specialised"] and "threads" not in shown["train_specialised"]
    shown = resources_of(demo.plan("--verbose", "--cores", "12"))
    assert "threads: 8" in shown["train_baseline"] and "threads: 6" in shown["train_specialised"]


def test_the_gpu_profile_gives_trainings_gpus(demo: Workflow) -> None:
    demo.profile = "gpu"
    given = ("--set-resources", "train_baseline:gpu=4", "train_specialised:gpu=1", "activations:gpu=1")
    overrides = {"training": {"micro_batches": 4}}
    plan = demo.plan("--verbose", "--printshellcmds", "--resources", "gpu=4", *given, overrides=overrides)
    shown = resources_of(plan)
    assert "gpu=4" in shown["train_baseline"] and "gpu=1" in shown["train_specialised"]
    assert "gpu=0" in shown["translate"]
    # the trainer gets what was granted
    assert [
        re.findall(r"--gpus (\d)", line)[0] for line in plan.output.splitlines() if "--gpus" in line
    ] == list("411")


def test_a_job_that_would_be_given_fewer_gpus_is_refused(demo: Workflow) -> None:
    """Snakemake gives a job what there is, and trains on one GPU, or none, what was to be trained on four."""
    refused = demo.plan("--set-resources", "train_baseline:gpu=1")
    assert refused.status != 0
    assert "train_baseline asks for 1 GPU; this run may use none" in refused.output
    demo.profile = "gpu"
    refused = demo.plan("--set-resources", "train_baseline:gpu=2*attempt", "train_specialised:gpu=1")
    assert refused.status != 0
    assert "train_baseline asks for 2 GPUs; this run may use 1" in refused.output
    assert "next: where the machine has as many: --resources gpu=2" in refused.output
    assert "Traceback" not in refused.output


def test_gpus_that_cannot_share_an_update_are_refused_before_anything_queues(demo: Workflow) -> None:
    demo.profile = "gpu"
    given = ("--resources", "gpu=4", "--set-resources", "train_baseline:gpu=2", "train_specialised:gpu=4")
    # an update of the demonstration is two micro-batches
    refused = demo.plan(*given)
    assert refused.status != 0
    assert "2 micro-batches cannot be shared equally by 4 GPUs" in refused.output
    assert "where: training.micro_batches of continued" in refused.output
    assert "Traceback" not in refused.output
    overrides = {"finetuning": {"micro_batches": 4}}
    assert demo.plan(*given, overrides=overrides).jobs["train_specialised"] == 2


def test_a_run_that_wants_gpus_stops_before_its_first_job_where_there_is_none(demo: Workflow) -> None:
    demo.profile = "gpu"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        refused = demo.run()
    assert refused.status != 0
    assert re.search(
        r"this run \(activations, .*train_baseline.*\) asks for 1 GPU and none can", refused.output
    )
    assert "  next: " in refused.output and "Traceback" not in refused.output
    assert not [path for path in demo.folder.iterdir() if path.name != ".snakemake"]


@pytest.mark.parametrize(
    ("profile", "gpus", "memory", "minutes"), [("slurm", 1, 16000, 1440), ("ec30", 4, 64000, 2880)]
)
def test_cluster_profiles_ask_for_gpus_time_and_memory(
    tmp_path: Path, profile: str, gpus: int, memory: int, minutes: int
) -> None:
    config = REPOSITORY / ("configs/ec30.yaml" if profile == "ec30" else "config.yaml")
    shown = resources_of(Workflow(tmp_path, config=config, profile=profile).plan("--verbose"))
    for rule in ("train_baseline", "train_specialised"):
        assert re.search(rf"\bgpu={gpus}\b", shown[rule])
        assert re.search(r"\bnodes=1\b", shown[rule])
        assert re.search(rf"\bmem_mb={memory}\b", shown[rule])
        # what one update is made of is shared equally
        assert load_config(config).training.micro_batches % gpus == 0
    assert re.search(rf"\bruntime={minutes}\b", shown["train_baseline"])
    assert re.search(r"\bruntime=60\b", shown["translate"])
    assert "device=cuda" in shown["activations"] and "device=cpu" in shown["translate"]
    # of the paper's size every thread's batch takes more than a gigabyte
    assert re.search(rf"\bmem_mb={12000 if profile == 'ec30' else 4000}\b", shown["translate"])


def test_a_cluster_has_no_number_of_cores() -> None:
    # with a remote executor Snakemake refuses every use of `workflow.cores`; a dry run does not show it
    for path in [REPOSITORY / "Snakefile", *(REPOSITORY / "rules").glob("*.smk")]:
        assert "workflow.cores" not in path.read_text(encoding="utf-8"), path.name


def test_lint() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--lint", "--snakefile", str(REPOSITORY / "Snakefile")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
