"""From a recipe to the arguments and the environment of ``fairseq-train``. Pure: nothing is read or run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from neuron_specialization.config import Model, Recipe, Training
from neuron_specialization.errors import TrainingError

PLUGIN = Path(__file__).resolve().parents[1] / "fairseq_plugin"

# run by this interpreter: no script on PATH can be another environment's
DEFAULT_TRAINER = (sys.executable, "-m", "neuron_specialization.training.fairseq_train")

# an interval save beside checkpoint_last, and the one before it: what a damaged checkpoint_last falls back to
KEPT_INTERVAL_CHECKPOINTS = 2

# Saving and validating follow the number of updates alone. fairseq would also do both at every end of an
# epoch; an interval no run reaches turns that off.
_NEVER = 1_000_000_000

_EMBEDDINGS = {
    "shared": ["--share-all-embeddings"],
    "decoder-tied": ["--share-decoder-input-output-embed"],
    "separate": [],
}
_SCHEDULERS = {"inverse_sqrt": "inverse_sqrt", "linear": "polynomial_decay"}
# Snakemake sets them all to a job's threads; of two that differ torch takes MKL's
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_PRECISIONS = {"fp32": [], "fp16": ["--fp16"], "bf16": ["--bf16"]}


@dataclass(frozen=True)
class Resources:
    """What the machine gives a run. None of it changes what is computed (apart from rounding).

    Attributes:
        gpus: processes of the trainer, one a GPU; 0 trains on the CPU.
        threads: CPU threads a process on a GPU may use; on a CPU, those of all processes together.
        nodes: machines that share the GPUs equally; more than one needs ``srun``.
        launcher: who starts the processes: ``spawn``, we, on one machine; ``srun``, SLURM, on those of the
            allocation this runs in (launch.py).
    """

    gpus: int = 0
    threads: int = 1
    nodes: int = 1
    launcher: Literal["spawn", "srun"] = "spawn"

    @property
    def gpus_per_node(self) -> int:
        return self.gpus // self.nodes

    def data_workers(self, training: Training) -> int:
        """Return how many processes put batches together, beside each trainer process.

        The fast implementation does it in a millisecond or two, in the trainer itself. Processes are not
        free: a validation leaves its iterator to Python's garbage collection, in which PyTorch waits five
        seconds for each of them in vain (what would tell them to end is finalised first). Stock fairseq
        needs them beside a GPU; on a CPU they would take time from the training itself.
        """
        return 2 if self.gpus and training.implementation == "stock" else 0

    def processes(self, micro_batches: int) -> int:
        """Return how many processes share the micro-batches of an update.

        One a GPU. On a CPU as many as threads and micro-batches allow: small matrices gain little from a
        second thread.
        """
        if self.gpus:
            return self.gpus
        return max(n for n in range(1, min(self.threads, micro_batches) + 1) if micro_batches % n == 0)

    def started(self, micro_batches: int) -> int:
        """Return how many of them are started here: all, or the one program that starts them (``srun``)."""
        return 1 if self.launcher == "srun" else self.processes(micro_batches)


def update_frequency(micro_batches: int, processes: int, who: str | None = None) -> int:
    """Return how many micro-batches a process accumulates for all to make ``micro_batches`` together.

    Args:
        micro_batches: of an update.
        processes: that share them.
        who: the system or selection that is trained, for the message.

    Raises:
        TrainingError: the processes do not divide the micro-batches, so that the global batch cannot be kept.
    """
    if micro_batches % processes:
        fitting = [n for n in range(1, micro_batches + 1) if micro_batches % n == 0]
        raise TrainingError(
            f"an update of {micro_batches} micro-batches cannot be shared equally by {processes} GPUs",
            where="training.micro_batches" + (f" of {who}" if who else ""),
            cause="the batch of an update decides the result, so it is never changed to fit the machine",
            hint=f"give the training {_either(fitting)} GPUs in the profile, or set training.micro_batches"
            f" to a multiple of {processes}",
        )
    return micro_batches // processes


def _either(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    return ", ".join(map(str, numbers[:-1])) + f" or {numbers[-1]}"


def shard_folders(data_bin: Path, shards: int) -> list[Path]:
    """Return the folders of a data-bin: itself, or ``shard0``, ``shard1``, … in it."""
    return [data_bin] if shards == 1 else [data_bin / f"shard{index}" for index in range(shards)]


def log_interval(max_updates: int) -> int:
    """Return every how many updates the trainer logs: some hundred points a run, at most 100 apart."""
    return max(1, min(100, max_updates // 100))


def trainer_arguments(
    recipe: Recipe,
    data_bin: Path,
    save_dir: Path,
    *,
    resources: Resources,
    init: Path | None = None,
    masks: Path | None = None,
) -> list[str]:
    """Return the arguments of ``fairseq-train`` for a recipe.

    The task is fairseq's ``translation_multi_simple_epoch`` (source tag first on the encoder side, target
    tag first on the decoder side, temperature sampling over directions), or this project's extension of it
    where masks, one-direction batches or the fast forward pass are asked for.

    Args:
        recipe: what decides the result.
        data_bin: the binarised data, or the folder of its ``shard<i>`` folders.
        save_dir: where the trainer keeps its checkpoints, and finds the one it resumes from.
        resources: GPUs and threads.
        init: a ``model.pt`` to go on from, with a fresh optimizer, schedule and data loader.
        masks: folder of ``<direction>.safetensors``.

    Raises:
        TrainingError: the recipe cannot run on these resources, naming the key.
    """
    training, model = recipe.training, recipe.model
    _check(training, resources)
    plugin = needs_plugin(training, masks is not None)
    processes = resources.processes(training.micro_batches)
    arguments = [
        # of several an epoch reads one
        ":".join(map(str, shard_folders(data_bin, recipe.shards))),
        *("--user-dir", str(PLUGIN)),
        *("--save-dir", str(save_dir)),
        *_task_arguments(recipe, plugin, masks),
        *_model_arguments(model, training, plugin),
        *_optimisation_arguments(training, processes, plugin),
        *_data_arguments(training, resources),
        *_checkpoint_arguments(training),
        *("--seed", str(recipe.seed)),
        *("--log-format", "json", "--log-interval", str(log_interval(training.max_updates))),
        *("--distributed-world-size", str(processes)),
        # fairseq hands the first a GPU, which a process on a CPU has not
        *("--ddp-backend", "legacy_ddp" if processes > 1 and resources.gpus == 0 else "pytorch_ddp"),
    ]
    if resources.gpus == 0:
        arguments.append("--cpu")
    if processes > 1:
        # Otherwise one process reads a checkpoint and sends it to the others as a pickle of omegaconf's and
        # fairseq's classes, which torch rightly refuses to load: every start from a checkpoint would fail.
        arguments.append("--load-checkpoint-on-all-dp-ranks")
    if init is not None:
        arguments += ["--finetune-from-model", str(init)]
    return arguments


def process_arguments(
    arguments: list[str], processes: int, rendezvous: Path, *, gpus: bool = False
) -> list[list[str]]:
    """Return the arguments of each trainer process of one machine.

    Left to itself fairseq starts a process for every GPU it sees: those would hold none of our locks and end
    later than we do, and what it takes for a SLURM job's tasks would decide how many there are. On a CPU it
    starts none. So each is started by us, and they find each other through a file.

    Args:
        arguments: what they have in common (``trainer_arguments``).
        processes: how many there are.
        rendezvous: a file that is not there yet (``launch.meeting_place``).
        gpus: each gets one of the GPUs that all of them see; else they are on the CPU.
    """
    if processes == 1:
        return [arguments]
    common = [
        *arguments,
        "--distributed-no-spawn",
        # torch takes the path as it stands here: nothing in it may be encoded
        *("--distributed-init-method", f"file://{rendezvous}"),
        *(() if gpus else ("--distributed-backend", "gloo")),
    ]
    return [
        [*common, "--distributed-rank", str(rank), *(("--device-id", str(rank)) if gpus else ())]
        for rank in range(processes)
    ]


def needs_plugin(training: Training, masked: bool) -> bool:
    """Say whether this project's task and architecture are needed, or fairseq's own do."""
    return (
        masked
        or training.implementation == "fast"
        or training.batching == "single-direction"
        or training.optimizer == "muon"
    )


def _check(training: Training, resources: Resources) -> None:
    if training.precision == "fp16" and resources.gpus == 0:
        raise TrainingError(
            "half precision (fp16) is not trained on a CPU",
            where="training.precision",
            hint="set training.precision to fp32, or give the training a GPU in the profile",
        )
    if training.batching == "single-direction" and training.implementation == "stock":
        raise TrainingError(
            "batches of one direction are made by the fast implementation alone",
            where="training.batching",
            hint="set training.implementation to fast",
        )
    if training.scheduler == "inverse_sqrt" and training.warmup_updates == 0:
        raise TrainingError(
            "the inverse square root schedule starts from its warm-up, which is 0 updates long",
            where="training.warmup_updates",
            hint="set training.warmup_updates to 1 or more, or training.scheduler to linear",
        )
    if training.scheduler == "linear" and training.warmup_updates >= training.max_updates:
        raise TrainingError(
            f"the warm-up ({training.warmup_updates} updates) is as long as the training"
            f" ({training.max_updates} updates): nothing is left to decay over",
            where="training.warmup_updates",
            hint="set training.warmup_updates below training.max_updates",
        )


def _task_arguments(recipe: Recipe, plugin: bool, masks: Path | None) -> list[str]:
    arguments = [
        *("--task", "neuron_specialization" if plugin else "translation_multi_simple_epoch"),
        # the order decides the ids of the language tags: always the order of the configuration
        *("--langs", ",".join(recipe.languages)),
        *("--lang-pairs", ",".join(recipe.directions)),
        *("--encoder-langtok", "src", "--decoder-langtok"),
        *("--sampling-method", "temperature"),
        *("--sampling-temperature", _number(recipe.training.sampling_temperature)),
    ]
    if plugin:
        arguments += ["--batching", recipe.training.batching]
    if masks is not None:
        arguments += ["--masks", str(masks)]
    return arguments


def _model_arguments(model: Model, training: Training, plugin: bool) -> list[str]:
    arguments = ["--arch", "masked_transformer" if plugin else "transformer"]
    if plugin:
        arguments += ["--implementation", training.implementation, "--products", training.products]
    for side, layers in (("encoder", model.encoder_layers), ("decoder", model.decoder_layers)):
        arguments += [
            *(f"--{side}-layers", str(layers)),
            *(f"--{side}-embed-dim", str(model.d_model)),
            *(f"--{side}-ffn-embed-dim", str(model.d_ff)),
            *(f"--{side}-attention-heads", str(model.heads)),
            f"--{side}-normalize-before",
        ]
    return [
        *arguments,
        *("--activation-fn", "relu"),
        *_EMBEDDINGS[model.embeddings],
        *("--max-source-positions", str(model.max_positions)),
        *("--max-target-positions", str(model.max_positions)),
        *("--dropout", _number(training.dropout)),
        *("--attention-dropout", _number(training.attention_dropout)),
        *("--activation-dropout", _number(training.activation_dropout)),
    ]


def _optimisation_arguments(training: Training, processes: int, plugin: bool) -> list[str]:
    fused = plugin and training.implementation == "fast"
    beta1, beta2 = training.adam_betas
    arguments = [
        *("--criterion", "fused_label_smoothed_cross_entropy" if fused else "label_smoothed_cross_entropy"),
        *("--label-smoothing", _number(training.label_smoothing)),
        *_optimizer_arguments(training, fused),
        *("--adam-betas", f"({beta1!r}, {beta2!r})"),
        *("--adam-eps", _number(training.adam_eps)),
        *("--weight-decay", _number(training.weight_decay)),
        *("--clip-norm", _number(training.clip_norm)),
        *("--lr", _number(training.lr)),
        *("--lr-scheduler", _SCHEDULERS[training.scheduler]),
        *("--warmup-updates", str(training.warmup_updates)),
        *("--max-update", str(training.max_updates)),
        *("--update-freq", str(update_frequency(training.micro_batches, processes))),
        *_PRECISIONS[training.precision],
    ]
    if training.scheduler == "linear":
        arguments += ["--total-num-update", str(training.max_updates)]
    return arguments


def _optimizer_arguments(training: Training, fused: bool) -> list[str]:
    if training.optimizer == "adam":
        return ["--optimizer", "fused_adam" if fused else "adam"]
    arguments = ["--optimizer", "muon", "--muon-products", training.products]
    arguments += ["--muon-lr-ratio", _number(training.muon_lr_ratio)]
    # it needs the matrices; fairseq would lay all numbers of a half-precision model in one row
    return arguments if training.precision == "fp32" else [*arguments, "--fp16-no-flatten-grads"]


def _data_arguments(training: Training, resources: Resources) -> list[str]:
    return [
        *("--max-tokens", str(training.max_tokens)),
        *("--required-batch-size-multiple", str(training.sentence_multiple)),
        *("--num-workers", str(resources.data_workers(training))),
        # a validation segment longer than max_positions is left out, as in training; it does not end the run
        "--skip-invalid-size-inputs-valid-test",
    ]


def _checkpoint_arguments(training: Training) -> list[str]:
    arguments = [
        *("--save-interval", str(_NEVER), "--validate-interval", str(_NEVER)),
        *("--save-interval-updates", str(training.save_every)),
        *("--validate-interval-updates", str(training.validate_every)),
        *("--keep-interval-updates", str(KEPT_INTERVAL_CHECKPOINTS)),
        "--no-epoch-checkpoints",
    ]
    if training.patience is not None:
        arguments += ["--patience", str(training.patience)]
    return arguments


def trainer_environment(
    base: Mapping[str, str], *, resources: Resources, processes: int = 1, devices: list[str] | None = None
) -> dict[str, str]:
    """Return the environment variables of a trainer process.

    Args:
        base: the environment to start from (``os.environ``).
        resources: GPUs and threads.
        processes: how many are started here (``Resources.started``); on a CPU they share the threads.
        devices: ids of the GPUs this run holds; None leaves what is visible alone.
    """
    environment = dict(base)
    threads = resources.threads if resources.gpus else max(1, resources.threads // processes)
    for name in _THREAD_VARIABLES:
        environment[name] = str(threads)
    environment["PYTHONUNBUFFERED"] = "1"
    if devices is not None:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    if resources.gpus == 0:
        # Hide GPUs from a run that was given none: fairseq would touch the first one it sees.
        environment["CUDA_VISIBLE_DEVICES"] = ""
        if processes > 1 and sys.platform.startswith("linux"):
            # they are on one machine, whose name need not resolve to an address it can be reached at
            environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
        # A CPU step frees and asks for the same few large buffers again and again. glibc's defaults give them
        # back to the kernel each time; high thresholds keep them, which saves the page faults.
        for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_"):
            environment.setdefault(name, str(1 << 30 if "TOP" not in name else 1 << 26))
    return environment


def _number(value: float) -> str:
    """Shortest text that reads back as the same float: 5e-3 → ``0.005``."""
    return repr(value)
