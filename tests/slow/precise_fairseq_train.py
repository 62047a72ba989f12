"""fairseq-train with its log unrounded: losses are compared to more digits than it prints.

Environment:
    PRECISE_PARAMETERS   folder: each process writes its parameters after every update, as ``<rank>.pt``
    PRECISE_END_AT       end as if killed when so many updates are made (and saved)
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from neuron_specialization.training import fairseq_train


def unrounded(number: Any, _: int | None) -> Any:
    return number.item() if hasattr(number, "item") else number


def main() -> None:
    # before the rest of fairseq: it sets up the logging
    from fairseq_cli import train  # noqa: F401  # isort: skip
    import torch
    from fairseq.logging import meters, progress_bar
    from fairseq.trainer import Trainer

    def precise(stat: Any) -> str:
        if isinstance(stat, meters.AverageMeter | meters.TimeMeter):
            stat = stat.avg
        elif isinstance(stat, meters.StopwatchMeter):
            stat = stat.sum
        return repr(float(stat))

    def observed(trainer: Any, *given: Any, **named: Any) -> Any:
        if trainer.get_num_updates() == int(os.environ.get("PRECISE_END_AT", -1)):
            os._exit(9)
        result = step(trainer, *given, **named)
        if folder := os.environ.get("PRECISE_PARAMETERS"):
            path = Path(folder, f"{trainer.data_parallel_rank}.pt")
            torch.save(dict(trainer.get_model().named_parameters()), path)
        return result

    step, Trainer.train_step = Trainer.train_step, observed
    meters.safe_round = unrounded
    progress_bar.format_stat = precise
    fairseq_train.main()


if __name__ == "__main__":
    main()
