"""``fused_label_smoothed_cross_entropy``: fairseq's criterion, computed by ``fused_loss``."""

from __future__ import annotations

from typing import Any

from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
)
from torch import Tensor

from neuron_specialization.fused_loss import projected_label_smoothed_loss


@register_criterion("fused_label_smoothed_cross_entropy", dataclass=LabelSmoothedCrossEntropyCriterionConfig)
class FusedLabelSmoothedCrossEntropy(LabelSmoothedCrossEntropyCriterion):
    """Same loss and log as ``label_smoothed_cross_entropy``; padding never reaches the output projection."""

    def forward(
        self, model: Any, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[Tensor, Any, dict[str, Any]]:
        if not reduce or self.report_accuracy or self.ignore_prefix_size:
            return super().forward(model, sample, reduce)
        features, _ = model(**sample["net_input"], features_only=True)
        target = sample["target"]
        real = target.ne(self.padding_idx).view(-1).nonzero().squeeze(1)
        loss, nll = projected_label_smoothed_loss(
            features.reshape(-1, features.shape[-1]).index_select(0, real),
            model.decoder.output_projection.weight,
            target.view(-1).index_select(0, real),
            self.eps,
            bfloat16=model.training and bool(getattr(model, "bfloat16_products", False)),
        )
        sample_size = target.size(0) if self.sentence_avg else sample["ntokens"]
        return (
            loss,
            sample_size,
            {
                "loss": loss.data,
                "nll_loss": nll.data,
                "ntokens": sample["ntokens"],
                "nsentences": target.size(0),
                "sample_size": sample_size,
            },
        )
