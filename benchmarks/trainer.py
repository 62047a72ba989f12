"""Trainings to measure: the `train` command, or fairseq's Trainer inside this process.

The Trainer makes the very step ``fairseq-train`` makes, one call each.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import common

from neuron_specialization.config import Recipe
from neuron_specialization.training.arguments import Resources, trainer_arguments

# as stock fairseq can train it: what the two are compared with
ADAM: dict[str, Any] = {"optimizer": "adam", "lr": 2.4e-3}


def experiment(name: str, changes: str, until: str, threads: int, scratch: Path) -> Path:
    """An experiment like the demonstration but for some settings, made by the workflow; its folder.

    Args:
        name: results/<name>/ is where it goes. What is there already is not made again.
        changes: the settings, YAML.
        until: the last rule that runs.
    """
    path = scratch / f"{name}.yaml"
    path.write_text(f"experiment: {name}\n{changes}", encoding="utf-8")
    command = [sys.executable, "-m", "snakemake", "--cores", str(threads), "--until", until]
    common.timed_command([*command, "--configfile", "config.yaml", str(path)], output=scratch / "log")
    return common.ROOT / "results" / name


def demo_recipe(demo: Path, *, model: dict[str, Any] | None = None, **training: Any) -> Recipe:
    """The baseline's recipe of a finished demonstration, with other settings."""
    recipe = json.loads((demo / "training/baseline/model.json").read_text(encoding="utf-8"))["recipe"]
    recipe["training"] |= training
    recipe["model"] |= model or {}
    return Recipe.model_validate(recipe)


def train(
    recipe: Recipe, data_bin: Path, folder: Path, threads: int
) -> tuple[list[dict[str, Any]], common.Sample]:
    """Train as a user does, by the `train` command; its records, and the time of it all."""
    command = [sys.executable, "-m", "neuron_specialization", "train", "--recipe", recipe.model_dump_json()]
    flags = ["--data-bin", str(data_bin), "--output", str(folder), "--threads", str(threads)]
    sample = common.timed_command([*command, *flags], output=folder.parent / f"{folder.name}.log")
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines], sample


def make_trainer(recipe: Recipe, data_bin: Path, scratch: Path, masks: Path | None = None) -> Any:
    """Return fairseq's Trainer for a recipe, weights freshly drawn from its seed."""
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    from fairseq import options, tasks, utils
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from fairseq.trainer import Trainer

    given = trainer_arguments(recipe, data_bin, scratch, resources=Resources(), masks=masks)
    parser = options.get_training_parser()
    configuration = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, given))
    utils.import_user_module(configuration.common)
    utils.set_torch_seed(recipe.seed)
    task = tasks.setup_task(configuration.task)
    model = task.build_model(configuration.model)
    criterion = task.build_criterion(configuration.criterion)
    return Trainer(configuration, task, model, criterion)


def batches_of(trainer: Any, count: int | None = None, epoch: int = 1) -> Iterator[dict[str, Any]]:
    """The first batches of an epoch in training order."""
    iterator = trainer.get_train_iterator(epoch=epoch, load_dataset=True)
    trainer.begin_epoch(epoch)
    yield from islice(iterator.next_epoch_itr(shuffle=True), count)


def target_tokens(batches: list[dict[str, Any]]) -> int:
    """Real target tokens."""
    return sum(int(batch["ntokens"]) for batch in batches)
