"""``fused_label_smoothed_cross_entropy``: fairseq's criterion, computed by ``fused_loss``.

In validation it also tells the loss of each direction, read from the sentences' language tags, as
``nll_<direction>``: the same forward pass, some sums more. What best checkpoint and patience follow is the
total, as ever.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
)
from fairseq.logging import metrics
from torch import Tensor

from neuron_specialization.fairseq_plugin.direction_table import DirectionTable
from neuron_specialization.transformer.fused_loss import projected_label_smoothed_loss

NLL, TOKENS = "nll_", "tokens_"


@register_criterion("fused_label_smoothed_cross_entropy", dataclass=LabelSmoothedCrossEntropyCriterionConfig)
class FusedLabelSmoothedCrossEntropy(LabelSmoothedCrossEntropyCriterion):
    """Same loss and log as ``label_smoothed_cross_entropy``; padding never reaches the output projection."""

    def __init__(
        self,
        task: Any,
        sentence_avg: bool,
        label_smoothing: float,
        ignore_prefix_size: int = 0,
        report_accuracy: bool = False,
    ) -> None:
        super().__init__(task, sentence_avg, label_smoothing, ignore_prefix_size, report_accuracy)
        self.table: DirectionTable | None = None
        if getattr(task, "lang_pairs", None) and getattr(task, "langs", None):
            self.table = DirectionTable(task.lang_pairs, task.langs, task.source_dictionary)

    def forward(
        self, model: Any, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[Tensor, Any, dict[str, Any]]:
        """Compute the loss of a batch as fairseq's criterion does.

        Args:
            model: its features are [B, T, d].
            sample: with ``target`` int64[B, T].
            reduce: sum over tokens; False leaves it, like reports of accuracy, to fairseq's own code.

        Returns:
            (loss in nats, summed over target tokens; what the gradients are divided by; log).
        """
        if not reduce or self.report_accuracy or self.ignore_prefix_size:
            return super().forward(model, sample, reduce)
        features, _ = model(**sample["net_input"], features_only=True)
        target = sample["target"]
        real = target.ne(self.padding_idx).view(-1).nonzero().squeeze(1)
        by_direction = self.table is not None and not self.training
        token_nll = features.new_empty(real.numel(), dtype=torch.float32) if by_direction else None
        loss, nll = projected_label_smoothed_loss(
            features.reshape(-1, features.shape[-1]).index_select(0, real),
            model.decoder.output_projection.weight,
            target.view(-1).index_select(0, real),
            self.eps,
            bfloat16=model.training and bool(getattr(model, "bfloat16_products", False)),
            token_nll=token_nll,
        )
        sample_size = target.size(0) if self.sentence_avg else sample["ntokens"]
        log = {
            "loss": loss.data,
            "nll_loss": nll.data,
            "ntokens": sample["ntokens"],
            "nsentences": target.size(0),
            "sample_size": sample_size,
        }
        if token_nll is not None:
            log |= self._by_direction(sample, real, token_nll)
        return loss, sample_size, log

    def _by_direction(self, sample: dict[str, Any], real: Tensor, token_nll: Tensor) -> dict[str, Tensor]:
        """Sums of nll (nats) and tokens of every direction: all keys always, as workers' logs are added up.

        Args:
            sample: the batch.
            real: int64[N], places in the flattened target that are no padding.
            token_nll: float32[N].
        """
        table = self.table
        assert table is not None
        target = sample["target"]
        of_sentence = table(sample["net_input"]["src_tokens"], target[:, 0])
        # one place more, for sentences of no direction
        numbers = of_sentence[real // target.shape[1]] % (len(table.directions) + 1)
        # sums of ones: bincount would make a GPU's host wait for how long it is
        tokens, sums = (
            values.new_zeros(len(table.directions) + 1).index_add_(0, numbers, values)
            for values in (torch.ones_like(numbers), token_nll)
        )
        return {
            key: value
            for index, name in enumerate(table.directions)
            for key, value in ((f"{NLL}{name}", sums[index]), (f"{TOKENS}{name}", tokens[index]))
        }

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """As fairseq's; and for every direction in the logs ``nll_<direction>``, in bits a target token."""
        super().reduce_metrics(logging_outputs)
        names = [key.removeprefix(TOKENS) for key in logging_outputs[0] if key.startswith(TOKENS)]
        for name in names:
            tokens = float(sum(log.get(f"{TOKENS}{name}", 0) for log in logging_outputs))
            if tokens > 0:
                nll = float(sum(log.get(f"{NLL}{name}", 0) for log in logging_outputs))
                metrics.log_scalar(f"{NLL}{name}", nll / tokens / math.log(2), tokens, round=4)
