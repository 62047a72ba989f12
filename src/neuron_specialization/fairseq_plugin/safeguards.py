"""What keeps long trainings sound: a loss that is no number is named, and patience survives a restart."""

from __future__ import annotations

import sys
from typing import Any

import torch

from neuron_specialization.fairseq_plugin.direction_table import source_tags


class Safeguards:
    """For a fairseq task: put before it among the bases."""

    args: Any
    source_dictionary: Any

    def train_step(
        self,
        sample: dict[str, Any],
        model: Any,
        criterion: Any,
        optimizer: Any,
        update_num: int,
        ignore_grad: bool = False,
        **kwargs: Any,
    ) -> Any:
        """One micro-batch, as fairseq's task does it.

        Raises:
            FloatingPointError: the loss is not finite, naming the update and the batch's directions. Not
                in half precision, where fairseq's loss scaling deals with a step that overflows.
        """
        result = super().train_step(  # type: ignore[misc]
            sample, model, criterion, optimizer, update_num, ignore_grad, **kwargs
        )
        if not getattr(self.args, "fp16", False) and not torch.isfinite(result[0]).all():
            raise FloatingPointError(
                f"the loss is not finite at update {update_num + 1}, "
                f"directions: {', '.join(directions_in(sample, self.source_dictionary))}"
            )
        return result

    # fairseq counts the validations without progress in attributes of a function, which are lost when the
    # trainer ends: a run that is resumed would wait anew. It saves what these two methods give and take.

    def get_checkpoint_dict(self) -> dict[str, Any]:
        """State of this task for the checkpoint, under the task's name."""
        waiting = {
            name: value for name, value in vars(_early_stopping()).items() if name in ("best", "num_runs")
        }
        return {type(self).__name__: {"early_stopping": waiting}}

    def set_checkpoint_dict(self, state: dict[str, Any]) -> None:
        """Take back what get_checkpoint_dict gave."""
        for name, value in state.get("early_stopping", {}).items():
            setattr(_early_stopping(), name, value)


def _early_stopping() -> Any:
    """fairseq-train's should_stop_early, in the module that runs: the program itself, or the imported one."""
    program = sys.modules["__main__"]
    if hasattr(program, "should_stop_early"):
        return program.should_stop_early
    from fairseq_cli import train  # type: ignore[import-untyped]

    return train.should_stop_early


def directions_in(sample: dict[str, Any], dictionary: Any) -> list[str]:
    """The directions of a batch's sentences by their tags, each once, in order of first use.

    Args:
        sample: with ``net_input``: src_tokens int64[B, S], prev_output_tokens int64[B, T].
        dictionary: with the language tags.
    """
    sources = source_tags(sample["net_input"]["src_tokens"], dictionary.pad()).tolist()
    targets = sample["net_input"]["prev_output_tokens"][:, 1].tolist()
    return list(
        dict.fromkeys(
            f"{dictionary[source].strip('_')}-{dictionary[target].strip('_')}"
            for source, target in zip(sources, targets, strict=True)
        )
    )
