"""GPUs before anything starts: a run that asks for more than can be used is refused, not made smaller."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from neuron_specialization.errors import TrainingError
from neuron_specialization.storage.locks import visible_gpus

# Set where a scheduler is tested with GPUs that exist only on paper: they are counted and handed out as real
# ones are, and what should compute on them computes on the CPU.
PRETEND = "NEURON_SPECIALIZATION_PRETEND_GPUS"

# In a process of its own: a driver that was initialised would stay with the one that asked.
_PROBE = """
import json, torch
usable = torch.cuda.is_available()
print(json.dumps([torch.cuda.device_count() if usable else 0, torch.__version__, torch.version.cuda]))
"""


@dataclass(frozen=True)
class UsableGpus:
    """What PyTorch can compute on.

    Attributes:
        number: GPUs, those that CUDA_VISIBLE_DEVICES hides left out.
        torch: its version.
        cuda: the version it was built for; None for the CPU build.
    """

    number: int
    torch: str
    cuda: str | None


def usable_gpus(environment: Mapping[str, str]) -> UsableGpus:
    """Ask PyTorch, as the trainer will find it in this environment."""
    if environment.get(PRETEND):
        return UsableGpus(len(visible_gpus(environment)), "of no account", "of no account")
    done = subprocess.run(
        [sys.executable, "-c", _PROBE], env=dict(environment), capture_output=True, text=True, timeout=300
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise TrainingError(
            f"PyTorch cannot be asked for GPUs: {last}", where=sys.executable, hint="make env"
        )
    number, version, cuda = json.loads(done.stdout.splitlines()[-1])
    return UsableGpus(number, version, cuda)


def require_gpus(
    number: int,
    environment: Mapping[str, str] | None = None,
    *,
    who: str = "the training",
    where: str | None = None,
    usable: Callable[[Mapping[str, str]], UsableGpus] = usable_gpus,
) -> None:
    """Refuse to go on where PyTorch cannot use as many GPUs as are asked for; 0 asks nothing of anyone.

    fairseq would train on the CPU without a word, days instead of hours.

    Args:
        number: GPUs needed on this machine.
        environment: with CUDA_VISIBLE_DEVICES; default: this process's.
        who: asks for them, for the message.
        where: what asks for them; default: the command's option.
        usable: counts them.

    Raises:
        TrainingError: there are fewer.
    """
    if number == 0:
        return
    environment = os.environ if environment is None else environment
    found = usable(environment)
    if found.number >= number:
        return
    if found.number:
        cause = f"{socket.gethostname()} has fewer, or CUDA_VISIBLE_DEVICES hides the others"
        hint = f"ask for {found.number}: gpu under set-resources of the profile, snakemake --resources gpu=N"
    elif found.cuda is None:
        cause = f"torch {found.torch} is the CPU build"
        hint = (
            "make env TORCH_INDEX=https://download.pytorch.org/whl/cu130 VENV=.venv-cuda, and run from there;"
            " to train on the CPU: snakemake --cores all (profiles/default)"
        )
    else:
        cause = (
            f"{socket.gethostname()} has no NVIDIA GPU, or a driver too old for CUDA {found.cuda}"
            " (see nvidia-smi)"
        )
        hint = "run it where there is one; to train on the CPU: snakemake --cores all (profiles/default)"
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    raise TrainingError(
        f"{who} asks for {_gpus(number)} and {found.number or 'none'} can be used"
        + (f" (CUDA_VISIBLE_DEVICES={visible})" if visible is not None else ""),
        where=where or "--gpus, which the workflow takes from the profile (gpu under set-resources)",
        cause=cause,
        hint=hint,
    )


def refuse_scaling(asked: Mapping[str, int], limit: int | None) -> None:
    """Refuse jobs that ask for more GPUs than a run may use: Snakemake would give them fewer, silently.

    Args:
        asked: job → GPUs.
        limit: what the run may use together; None: no limit.

    Raises:
        TrainingError: one of them asks for more.
    """
    if limit is None:
        return
    above = {name: number for name, number in asked.items() if number > limit}
    if not above:
        return
    raise TrainingError(
        "; ".join(f"{name} asks for {_gpus(number)}" for name, number in above.items())
        + f"; this run may use {limit or 'none'}",
        where="gpu under set-resources, and under resources (or --resources gpu=N)",
        cause="Snakemake would give such a job fewer GPUs than it asks for, without a word",
        hint=f"where the machine has as many: --resources gpu={max(above.values())};"
        f" else ask for {limit} under set-resources",
    )


def _gpus(number: int) -> str:
    return f"{number} GPU{'' if number == 1 else 's'}"
