"""GPUs that are asked for and are not there are refused, with what to do about it."""

from __future__ import annotations

import os
from collections.abc import Mapping

import pytest
import torch

from neuron_specialization.cli import main
from neuron_specialization.errors import TrainingError
from neuron_specialization.training.devices import (
    PRETEND,
    UsableGpus,
    refuse_scaling,
    require_gpus,
    usable_gpus,
    visible_gpus,
)


def refusal(number: int, found: UsableGpus, environment: Mapping[str, str] | None = None) -> TrainingError:
    with pytest.raises(TrainingError) as caught:
        require_gpus(number, environment or {}, usable=lambda _: found)
    return caught.value


def test_what_pytorch_says_is_what_counts() -> None:
    found = usable_gpus(os.environ)
    assert found == UsableGpus(
        torch.cuda.device_count() if torch.cuda.is_available() else 0, torch.__version__, torch.version.cuda
    )
    # none that the environment hides
    assert usable_gpus({**os.environ, "CUDA_VISIBLE_DEVICES": ""}).number == 0


def test_the_cpu_build_is_named_and_how_to_get_the_other() -> None:
    error = refusal(1, UsableGpus(0, "2.13.0+cpu", None))
    assert error.what == "the training asks for 1 GPU and none can be used"
    assert error.cause == "torch 2.13.0+cpu is the CPU build"
    assert "make env TORCH_INDEX=" in str(error.hint) and "profiles/default" in str(error.hint)
    assert "set-resources" in str(error.where)


def test_a_machine_without_a_gpu_is_named() -> None:
    error = refusal(1, UsableGpus(0, "2.13.0", "13.0"), {"CUDA_VISIBLE_DEVICES": ""})
    assert error.what.endswith("(CUDA_VISIBLE_DEVICES=)")
    assert "no NVIDIA GPU, or a driver too old for CUDA 13.0" in str(error.cause)
    assert "profiles/default" in str(error.hint)


def test_too_few_are_as_bad_as_none() -> None:
    error = refusal(4, UsableGpus(2, "2.13.0", "13.0"))
    assert "asks for 4 GPUs and 2 can be used" in error.what
    assert "ask for 2" in str(error.hint)


def test_enough_are_enough_and_none_needs_nobody() -> None:
    require_gpus(2, {}, usable=lambda _: UsableGpus(2, "2.13.0", "13.0"))

    def never(_: Mapping[str, str]) -> UsableGpus:
        raise AssertionError("asked PyTorch")

    require_gpus(0, {}, usable=never)


def test_pretended_ones_are_counted_by_the_schedulers_variable() -> None:
    environment = {PRETEND: "1", "CUDA_VISIBLE_DEVICES": "1, 3"}
    assert visible_gpus(environment) == ["1", "3"]
    require_gpus(2, environment)
    with pytest.raises(TrainingError, match="asks for 3 GPUs and 2 can be used"):
        require_gpus(3, environment)


def test_a_job_that_would_be_given_fewer_is_refused() -> None:
    asked = {"train_baseline": 4, "train_specialised": 1, "translate": 0}
    refuse_scaling(asked, 4)
    refuse_scaling(asked, None)
    with pytest.raises(TrainingError, match="train_baseline asks for 4 GPUs; this run may use 2") as caught:
        refuse_scaling(asked, 2)
    assert "--resources gpu=4" in str(caught.value) and "train_specialised" not in str(caught.value)
    with pytest.raises(TrainingError, match="train_specialised asks for 1 GPU; this run may use none"):
        refuse_scaling({"train_specialised": 1}, 0)


def test_counting_on_a_gpu_that_is_not_there_is_refused_at_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    command = "activations --checkpoint no.pt --data-bin no --max-tokens 9 --output no --device cuda:0"
    with pytest.raises(SystemExit) as end:
        main(command.split())
    assert end.value.code == 1
    assert "counting asks for 1 GPU and none can be used" in capsys.readouterr().err
