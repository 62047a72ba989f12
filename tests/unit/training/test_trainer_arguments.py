"""The recipe's way to fairseq-train: every key has its flag, and the machine does not change the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neuron_specialization.config import Model, Recipe, Training
from neuron_specialization.errors import TrainingError
from neuron_specialization.training.arguments import (
    PLUGIN,
    Resources,
    log_interval,
    process_arguments,
    trainer_arguments,
    trainer_environment,
    update_frequency,
)


def recipe(*, model: dict[str, Any] | None = None, shards: int = 1, **training: Any) -> Recipe:
    return Recipe(
        system="baseline",
        languages=["en", "de", "oc"],
        directions=["en-de", "de-en", "en-oc"],
        model=Model(**(model or {})),
        training=Training(**training),
        seed=7,
        shards=shards,
    )


def arguments(given: Recipe, *, gpus: int = 0, **kwargs: Any) -> list[str]:
    return trainer_arguments(
        given, Path("data"), Path("ck"), resources=Resources(gpus=gpus, threads=1), **kwargs
    )


def value(line: list[str], flag: str) -> str:
    assert line.count(flag) == 1, f"{flag} in {line}"
    return line[line.index(flag) + 1]


def test_the_whole_line() -> None:
    line = " ".join(arguments(recipe(implementation="stock", max_updates=200, save_every=50)))
    assert line == (
        f"data --user-dir {PLUGIN} --save-dir ck"
        " --task translation_multi_simple_epoch --langs en,de,oc --lang-pairs en-de,de-en,en-oc"
        " --encoder-langtok src --decoder-langtok --sampling-method temperature --sampling-temperature 2.0"
        " --arch transformer"
        " --encoder-layers 3 --encoder-embed-dim 128 --encoder-ffn-embed-dim 512 --encoder-attention-heads 4"
        " --encoder-normalize-before"
        " --decoder-layers 3 --decoder-embed-dim 128 --decoder-ffn-embed-dim 512 --decoder-attention-heads 4"
        " --decoder-normalize-before"
        " --activation-fn relu --share-all-embeddings --max-source-positions 256 --max-target-positions 256"
        " --dropout 0.1 --attention-dropout 0.0 --activation-dropout 0.0"
        " --criterion label_smoothed_cross_entropy --label-smoothing 0.1"
        " --optimizer adam --adam-betas (0.9, 0.98) --adam-eps 1e-06 --weight-decay 0.0 --clip-norm 0.0"
        " --lr 0.005 --lr-scheduler inverse_sqrt --warmup-updates 400 --max-update 200 --update-freq 1"
        " --max-tokens 2048 --required-batch-size-multiple 8 --num-workers 0"
        " --skip-invalid-size-inputs-valid-test"
        " --save-interval 1000000000 --validate-interval 1000000000"
        " --save-interval-updates 50 --validate-interval-updates 500"
        " --keep-interval-updates 2 --no-epoch-checkpoints"
        " --seed 7 --log-format json --log-interval 2 --distributed-world-size 1"
        " --ddp-backend pytorch_ddp --cpu"
    )


# another valid value of every key that decides the result
OTHER_TRAINING: dict[str, Any] = {
    "max_updates": 1234,
    "max_tokens": 999,
    "sentence_multiple": 1,
    "micro_batches": 4,
    "optimizer": "muon",
    "muon_lr_ratio": 0.5,
    "lr": 1e-3,
    "scheduler": "linear",
    "warmup_updates": 11,
    "adam_betas": (0.8, 0.99),
    "adam_eps": 1e-8,
    "weight_decay": 0.01,
    "clip_norm": 1.0,
    "label_smoothing": 0.2,
    "dropout": 0.3,
    "attention_dropout": 0.1,
    "activation_dropout": 0.1,
    "sampling_temperature": 5.0,
    "batching": "single-direction",
    "validate_every": 100,
    "save_every": 100,
    "patience": 3,
    "precision": "bf16",
    "implementation": "stock",
    "products": "bf16",
}
OTHER_MODEL: dict[str, Any] = {
    "encoder_layers": 5,
    "decoder_layers": 2,
    "d_model": 64,
    "d_ff": 100,
    "heads": 2,
    "embeddings": "separate",
    "max_positions": 100,
}


def test_the_tables_above_are_complete() -> None:
    assert set(OTHER_TRAINING) == set(Training.model_fields)
    assert set(OTHER_MODEL) == set(Model.model_fields)


@pytest.mark.parametrize("key", OTHER_TRAINING)
def test_every_training_key_reaches_the_trainer(key: str) -> None:
    of_muon = {"optimizer": "muon"} if key.startswith("muon_") else {}
    assert arguments(recipe(**of_muon, **{key: OTHER_TRAINING[key]})) != arguments(recipe(**of_muon))


@pytest.mark.parametrize("key", OTHER_MODEL)
def test_every_model_key_reaches_the_trainer(key: str) -> None:
    assert arguments(recipe(model={key: OTHER_MODEL[key]})) != arguments(recipe())


def test_fairseq_itself_accepts_the_line() -> None:
    """Parsed by fairseq's own parser, the values arrive where they should."""
    from fairseq import options

    line = arguments(recipe(implementation="stock", micro_batches=3, patience=4, scheduler="linear", lr=7e-4))
    parsed = options.parse_args_and_arch(options.get_training_parser(), input_args=line)
    assert parsed.lr == [7e-4]
    assert parsed.update_freq == [3]
    assert parsed.adam_betas == "(0.9, 0.98)"
    assert parsed.langs == ["en", "de", "oc"]
    assert (parsed.patience, float(parsed.total_num_update), parsed.power) == (4, 3000.0, 1.0)
    assert parsed.share_all_embeddings and parsed.encoder_normalize_before and parsed.cpu


def test_masks_and_a_fast_pass_need_the_plugin() -> None:
    dense = arguments(recipe(implementation="stock"))
    assert value(dense, "--arch") == "transformer"
    fast = arguments(recipe())
    assert value(fast, "--task") == "neuron_specialization"
    assert value(fast, "--criterion") == "fused_label_smoothed_cross_entropy"
    assert value(fast, "--optimizer") == "fused_adam"
    assert "--masks" not in fast
    masked = arguments(recipe(implementation="stock"), masks=Path("m"), init=Path("model.pt"))
    assert value(masked, "--masks") == "m"
    assert value(masked, "--arch") == "masked_transformer"
    assert value(masked, "--implementation") == "stock"
    assert value(masked, "--criterion") == "label_smoothed_cross_entropy"
    assert value(masked, "--finetune-from-model") == "model.pt"


def test_muon_needs_the_plugin_and_whole_matrices() -> None:
    stock = arguments(recipe(optimizer="muon", implementation="stock", products="auto"))
    assert value(stock, "--arch") == "masked_transformer"
    assert value(stock, "--criterion") == "label_smoothed_cross_entropy"
    assert value(stock, "--optimizer") == "muon"
    assert value(stock, "--muon-products") == "auto"
    assert "--fp16-no-flatten-grads" not in stock
    for precision in ("fp16", "bf16"):
        line = arguments(recipe(optimizer="muon", precision=precision), gpus=1)
        assert "--fp16-no-flatten-grads" in line


def test_gpus_keep_the_global_batch() -> None:
    line = arguments(recipe(micro_batches=84), gpus=4)
    assert value(line, "--update-freq") == "21"
    assert value(line, "--distributed-world-size") == "4"
    assert "--cpu" not in line
    # each is a process of its own, with as many threads
    assert Resources(gpus=4).started(84) == 4
    assert Resources(gpus=4, launcher="srun").started(84) == 1
    environment = trainer_environment({}, resources=Resources(gpus=4, threads=3), processes=4)
    assert environment["OMP_NUM_THREADS"] == "3"
    assert "--load-checkpoint-on-all-dp-ranks" in line
    assert value(line, "--num-workers") == "0"
    assert value(arguments(recipe(implementation="stock"), gpus=1), "--num-workers") == "2"


@pytest.mark.parametrize(
    ("micro_batches", "threads", "processes"),
    [(1, 8, 1), (2, 1, 1), (2, 2, 2), (2, 16, 2), (6, 4, 3), (84, 8, 7), (5, 4, 1)],
)
def test_threads_of_a_cpu_share_the_micro_batches(micro_batches: int, threads: int, processes: int) -> None:
    given, resources = recipe(micro_batches=micro_batches), Resources(threads=threads)
    assert resources.processes(micro_batches) == resources.started(micro_batches) == processes
    line = trainer_arguments(given, Path("data"), Path("ck"), resources=resources)
    assert value(line, "--distributed-world-size") == str(processes)
    assert int(value(line, "--update-freq")) * processes == micro_batches
    assert value(line, "--ddp-backend") == ("legacy_ddp" if processes > 1 else "pytorch_ddp")
    # what Snakemake sets for the whole job must not reach one of its processes
    given_variables = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    environment = trainer_environment(given_variables, resources=resources, processes=processes)
    for name in given_variables:
        assert int(environment[name]) == max(1, threads // processes)


def test_each_process_of_a_cpu_has_its_rank() -> None:
    assert process_arguments(["a"], 1, Path("r")) == [["a"]]
    lines = process_arguments(["a"], 3, Path("/tmp/r"))
    assert [value(line, "--distributed-rank") for line in lines] == ["0", "1", "2"]
    assert {value(line, "--distributed-init-method") for line in lines} == {"file:///tmp/r"}
    assert {value(line, "--distributed-backend") for line in lines} == {"gloo"}
    assert all("--distributed-no-spawn" in line and "--device-id" not in line for line in lines)


def test_each_process_of_a_gpu_has_its_rank_and_device() -> None:
    lines = process_arguments(["a"], 2, Path("/tmp/r"), gpus=True)
    assert [value(line, "--distributed-rank") for line in lines] == ["0", "1"]
    assert [value(line, "--device-id") for line in lines] == ["0", "1"]
    assert not any("--distributed-backend" in line for line in lines)  # fairseq's: nccl


@pytest.mark.parametrize("tasks", ["1", "2", "7", None])
def test_a_slurm_job_decides_nothing_about_processes_started_here(
    tasks: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In ``salloc`` and ``sbatch`` fairseq takes the job's tasks for its processes, if it is let."""
    from fairseq import options
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from fairseq.distributed import utils as distributed_utils

    job = {
        "JOB_ID": "7",
        "JOB_NODELIST": "node1",
        "NNODES": "1",
        "PROCID": "0",
        "LOCALID": "0",
        "NODEID": "0",
    }
    for name, text in (job | ({"NTASKS": tasks} if tasks else {})).items():
        monkeypatch.setenv(f"SLURM_{name}", text)
    monkeypatch.setattr(distributed_utils.subprocess, "check_output", lambda _: b"node1")
    started: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        distributed_utils,
        "distributed_main",
        lambda device, main, cfg, _: started.append((device, cfg.distributed_training)),
    )
    common = arguments(recipe(implementation="stock", micro_batches=2), gpus=2)
    for rank, line in enumerate(process_arguments(common, 2, Path("/tmp/r"), gpus=True)):
        parsed = options.parse_args_and_arch(options.get_training_parser(), input_args=line)
        distributed_utils.call_main(convert_namespace_to_omegaconf(parsed), None)
        device, found = started[rank]
        assert (device, found.distributed_rank, found.distributed_world_size) == (rank, rank, 2)
        assert (found.distributed_init_method, found.distributed_backend) == ("file:///tmp/r", "nccl")


def test_micro_batches_that_gpus_do_not_divide_are_refused() -> None:
    with pytest.raises(TrainingError, match="6 micro-batches") as caught:
        update_frequency(6, 4)
    assert caught.value.where == "training.micro_batches"
    assert "1, 2, 3 or 6 GPUs" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("training.precision", {"precision": "fp16"}),
        ("training.warmup_updates", {"warmup_updates": 0}),
        ("training.warmup_updates", {"scheduler": "linear", "warmup_updates": 3000}),
        ("training.batching", {"implementation": "stock", "batching": "single-direction"}),
    ],
)
def test_what_cannot_run_is_refused_by_key(key: str, settings: dict[str, Any]) -> None:
    with pytest.raises(TrainingError) as caught:
        arguments(recipe(**settings))
    assert caught.value.where == key


def test_shards_are_one_path() -> None:
    assert arguments(recipe(shards=3))[0] == "data/shard0:data/shard1:data/shard2"
    assert arguments(recipe())[0] == "data"


def test_log_interval() -> None:
    assert [log_interval(n) for n in (1, 99, 3000, 10**6)] == [1, 1, 30, 100]


def test_environment() -> None:
    cpu = trainer_environment({"HOME": "/h"}, resources=Resources(threads=3))
    assert cpu["OMP_NUM_THREADS"] == "3"
    assert cpu["HOME"] == "/h"
    assert cpu["CUDA_VISIBLE_DEVICES"] == ""
    assert int(cpu["MALLOC_MMAP_THRESHOLD_"]) >= 1 << 30
    chosen = trainer_environment(
        {"MALLOC_MMAP_THRESHOLD_": "5"}, resources=Resources(gpus=2), devices=["1", "3"]
    )
    assert chosen["CUDA_VISIBLE_DEVICES"] == "1,3"
    assert chosen["MALLOC_MMAP_THRESHOLD_"] == "5"
    given = trainer_environment({"CUDA_VISIBLE_DEVICES": "0"}, resources=Resources(gpus=1))
    assert given["CUDA_VISIBLE_DEVICES"] == "0"
