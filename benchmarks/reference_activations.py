"""The reference's way to count the activations of one direction, written anew: a process for each direction.

python benchmarks/reference_activations.py CHECKPOINT DATA_BIN DIRECTION OUTPUT.npz
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import numpy as np
import torch

MAX_TOKENS = 30_000


def main(checkpoint: str, data_bin: str, direction: str, output: str) -> None:
    from fairseq import checkpoint_utils
    from omegaconf import open_dict

    logging.disable(logging.INFO)
    source, target = direction.split("-")
    overrides = {"data": data_bin, "lang_pairs": direction, "source_lang": source, "target_lang": target}
    state = checkpoint_utils.load_checkpoint_to_cpu(checkpoint, overrides)
    with open_dict(state["cfg"]):
        # fairseq-train puts it among the task's arguments; a checkpoint without it is no less valid
        state["cfg"]["task"].setdefault("dataset_impl", None)
    models, _, task = checkpoint_utils.load_model_ensemble_and_task(
        [checkpoint], arg_overrides=overrides, state=state
    )
    task.lang_pairs = [direction]
    task.data_manager.lang_pairs = [direction]
    task.load_dataset("valid")
    model = models[0].eval()
    counts: dict[str, torch.Tensor] = {}

    def counter(name: str) -> Any:
        def count(module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            hidden = given[0]
            fired = hidden.nonzero()[:, -1]  # over all positions [T, B], padding too
            total = torch.bincount(fired, minlength=hidden.shape[-1])
            counts[name] = counts[name] + total if name in counts else total

        return count

    for side in ("encoder", "decoder"):
        for number, layer in enumerate(getattr(model, side).layers):
            layer.fc2.register_forward_pre_hook(counter(f"{side}.layers.{number}"))
    batches = task.get_batch_iterator(
        task.dataset("valid"), max_tokens=MAX_TOKENS, required_batch_size_multiple=8
    ).next_epoch_itr(shuffle=False)
    with torch.no_grad():
        for batch in batches:
            model(**batch["net_input"])
    np.savez(output, allow_pickle=False, **{name: total.numpy() for name, total in counts.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
