"""The commands that start a training's processes: on this machine, or as the tasks of a SLURM job."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from neuron_specialization.errors import TrainingError
from neuron_specialization.training.arguments import Resources, process_arguments
from neuron_specialization.training.devices import PRETEND

# Rank 0 listens on one of these, chosen by the number of the job: two jobs on one node do not meet.
_FIRST_PORT, _PORTS = 20_000, 30_000

# for GPUs that are pretended; of options given twice the last one holds
_ON_THE_CPU = ("--cpu", "--ddp-backend", "legacy_ddp", "--distributed-backend", "gloo")

# what a path may hold to stand in a URL and in fairseq's settings as it is
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_/.+-]+")


@contextlib.contextmanager
def meeting_place() -> Iterator[Path]:
    """A file that is not there yet, where processes of this machine find each other; afterwards it is gone.

    Not in the run's folder, whose name is the user's: torch takes the path out of a URL as it stands, and
    with a ``#`` or ``?`` in it the processes would wait for each other in other places, for ever.
    """
    usual = tempfile.gettempdir()
    folder = usual if _PLAIN_PATH.fullmatch(usual) else "/tmp"
    with tempfile.TemporaryDirectory(prefix="neuron-specialization-", dir=folder) as place:
        yield Path(place) / "rendezvous"


def trainer_commands(
    trainer: Sequence[str],
    arguments: list[str],
    processes: int,
    rendezvous: Path,
    *,
    resources: Resources,
    environment: Mapping[str, str],
) -> list[list[str]]:
    """Return the command of each process that this one starts.

    Args:
        trainer: program that takes fairseq-train's arguments.
        arguments: those arguments (``trainer_arguments``).
        processes: how many to start here (``Resources.started``).
        rendezvous: a file that is not there yet, for several processes (``meeting_place``).
        resources: GPUs, nodes and who starts the processes.
        environment: with SLURM_JOB_ID for ``srun``.
    """
    pretended = resources.gpus > 0 and bool(environment.get(PRETEND))
    if pretended:
        arguments = [*arguments, *_ON_THE_CPU]
    if resources.launcher == "srun":
        # the second task of a node would take its second GPU: where GPUs are pretended it must not
        first = ["env", "SLURM_LOCALID=0"] if pretended else []
        return [[*_srun(resources), *first, *trainer, *arguments, *_slurm_rendezvous(environment)]]
    each = process_arguments(arguments, processes, rendezvous, gpus=resources.gpus > 0)
    return [[*trainer, *one] for one in each]


def _srun(resources: Resources) -> list[str]:
    """One task a GPU. fairseq reads its rank from SLURM_PROCID, and its device from SLURM_LOCALID: every task
    must see all GPUs of its node, so none is bound to one."""
    return [
        *("srun", f"--nodes={resources.nodes}", f"--ntasks={resources.gpus}"),
        *(f"--ntasks-per-node={resources.gpus_per_node}", f"--cpus-per-task={resources.threads}"),
        # a process that fails takes the others along, which would wait for it for ever
        "--kill-on-bad-exit=1",
    ]


def _slurm_rendezvous(environment: Mapping[str, str]) -> list[str]:
    """fairseq takes the first node of the job as the address (``distributed.utils._infer_slurm_init``), and a
    port from us: without one it would believe that it runs on a single node."""
    return ["--distributed-port", str(_FIRST_PORT + int(environment["SLURM_JOB_ID"]) % _PORTS)]


def check_allocation(resources: Resources, environment: Mapping[str, str]) -> None:
    """Refuse what cannot be started as asked.

    Raises:
        TrainingError: several nodes without ``srun``, ``srun`` outside a SLURM job, or GPUs that the nodes
            cannot share equally.
    """
    if resources.launcher == "spawn":
        if resources.nodes > 1:
            raise TrainingError(
                f"the processes of {resources.nodes} nodes cannot be started from one of them",
                where="--nodes, --launcher spawn",
                hint="--launcher srun inside a SLURM job; in a profile: launcher: srun (docs/running.md)",
            )
        return
    if resources.gpus == 0 or resources.gpus % resources.nodes:
        raise TrainingError(
            f"{resources.gpus} GPUs cannot be shared equally by {resources.nodes} nodes",
            where="--gpus, --nodes",
            cause="gpu in a profile is what all nodes have together",
            hint=f"ask for a multiple of {resources.nodes}",
        )
    if not environment.get("SLURM_JOB_ID", "").isdigit() or shutil.which("srun") is None:
        raise TrainingError(
            "srun starts the processes of a SLURM job, and this is none",
            where="--launcher srun, SLURM_JOB_ID",
            hint="run it from a script that sbatch was given, or by the workflow (docs/running.md)",
        )
