"""``fairseq-train`` with two changes: ``python -m neuron_specialization.training.fairseq_train``.

- *bfloat16 on any device*: fairseq takes ``--bf16`` for a wish for a TPU, and then asks for torch_xla. Its
  trainer and optimizer compute in bfloat16 on a GPU or a CPU as well.
- *Validation when it was asked for*: fairseq also validates whenever it saves within an epoch, so that more
  frequent saves would validate more often and exhaust ``--patience`` sooner. And it keeps the best model only
  where it saves: a validation that is no save would be in vain.

Everything else is fairseq's own entry point.
"""

from __future__ import annotations

from typing import Any


def main() -> None:
    # before the rest of fairseq: it sets up the logging
    from fairseq_cli import train  # type: ignore[import-untyped]  # isort: skip
    from fairseq import checkpoint_utils, options
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from fairseq.distributed import utils as distributed_utils

    arguments = options.parse_args_and_arch(options.get_training_parser())
    arguments.tpu = False
    validate_when_asked(train, checkpoint_utils.save_checkpoint)
    distributed_utils.call_main(convert_namespace_to_omegaconf(arguments), train.main)


def validate_when_asked(train: Any, save: Any) -> None:
    """Let fairseq validate at multiples of ``--validate-interval-updates`` and at the end, and save then.

    Args:
        train: fairseq's module of training, whose functions are replaced. In each round it calls
            ``validate`` (or not), then ``should_stop_early`` with the loss, then saves (or not).
        save: fairseq's ``save_checkpoint``.
    """
    validate, should_stop_early = train.validate, train.should_stop_early
    validated: list[Any] = []

    def validate_at_intervals(cfg: Any, trainer: Any, task: Any, epoch_itr: Any, subsets: Any) -> Any:
        if not _due(cfg, trainer, cfg.dataset.validate_interval_updates):
            return [None]  # as fairseq has it where it does not validate
        validated[:] = cfg.checkpoint, trainer, epoch_itr
        return validate(cfg, trainer, task, epoch_itr, subsets)

    def save_then(cfg: Any, loss: float | None) -> bool:
        stop = bool(should_stop_early(cfg, loss))
        # after patience was counted, which is saved, too
        if validated and not stop and not _due(cfg, validated[1], cfg.checkpoint.save_interval_updates):
            save(*validated, loss)
        validated.clear()
        return stop

    train.validate, train.should_stop_early = validate_at_intervals, save_then


def _due(cfg: Any, trainer: Any, interval: int) -> bool:
    """Whether something is to be done at this update, or the training is at its end."""
    updates = int(trainer.get_num_updates())
    return updates % interval == 0 or 0 < int(cfg.optimization.max_update) <= updates


if __name__ == "__main__":
    main()
