"""``neuron_specialization``: fairseq's multilingual translation task with masks by direction.

All of ``translation_multi_simple_epoch`` stays (tags, temperature sampling, shards); added are the
masks, batches of one direction, and the quicker batch assembly.
"""

from __future__ import annotations

import logging
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from fairseq.tasks import register_task
from fairseq.tasks.translation_multi_simple_epoch import TranslationMultiSimpleEpochTask

from neuron_specialization.errors import TrainingError
from neuron_specialization.fairseq_plugin.data import PackedPairs
from neuron_specialization.fairseq_plugin.model import MaskedTransformer
from neuron_specialization.fairseq_plugin.safeguards import Safeguards

logger = logging.getLogger(__name__)


@register_task("neuron_specialization")
class NeuronSpecializationTask(Safeguards, TranslationMultiSimpleEpochTask):
    """See the module's text."""

    @staticmethod
    def add_args(parser: ArgumentParser) -> None:
        TranslationMultiSimpleEpochTask.add_args(parser)
        parser.add_argument(
            "--masks", metavar="DIR", help="folder of <direction>.safetensors; no masks without it"
        )
        parser.add_argument(
            "--batching",
            choices=["mixed", "single-direction"],
            default="mixed",
            help="mixed: each sentence of a batch under its own mask; single-direction: as the reference",
        )

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any) -> None:
        super().load_dataset(split, epoch, combine, **kwargs)
        if not self.training:
            return
        single_direction = self.args.batching == "single-direction"
        if getattr(self.args, "implementation", "fast") == "stock":
            if single_direction:
                raise TrainingError(
                    "batches of one direction need `implementation: fast`", hint="set training.implementation"
                )
            return
        dictionary = self.source_dictionary
        packed = PackedPairs.wrap(
            self.datasets[split],
            pad=dictionary.pad(),
            eos=dictionary.eos(),
            single_direction=single_direction,
        )
        if packed is not None:
            self.datasets[split] = packed
        elif single_direction and not isinstance(self.datasets[split], PackedPairs):
            raise TrainingError(
                f"the {split} data cannot be grouped by direction",
                cause="it is not memory-mapped, or has no language tags",
                hint="binarise it with `--dataset-impl mmap` and use source and target tags",
            )

    def get_batch_iterator(
        self, dataset: Any, *args: Any, required_batch_size_multiple: int = 1, **kwargs: Any
    ) -> Any:
        """fairseq's batches; of validation text every segment, whatever multiple training batches hold.

        With a multiple fairseq leaves out a last batch that is none: the longest segments. Losses of mixed
        and single-direction batches would then be of different text.
        """
        if dataset is not self.datasets.get(getattr(self.args, "train_subset", "train")):
            required_batch_size_multiple = 1
        return super().get_batch_iterator(
            dataset, *args, required_batch_size_multiple=required_batch_size_multiple, **kwargs
        )

    def build_model(self, args: Any, from_checkpoint: bool = False) -> Any:
        """Build the model; with ``--masks`` its masks are read from there, else from the checkpoint."""
        folder = getattr(self.args, "masks", None)
        if folder and not from_checkpoint:
            args.mask_directions = list(self.lang_pairs)
        model = super().build_model(args, from_checkpoint)
        if folder and not from_checkpoint and isinstance(model, MaskedTransformer):
            from neuron_specialization.storage.layer_masks import read_all_masks

            model.set_masks(read_all_masks(Path(folder), model.mask_directions))
            logger.info(f"masks of {len(model.mask_directions)} directions from {folder}")
        return model

    def build_generator(
        self, models: Any, args: Any, seq_gen_cls: Any = None, extra_gen_cls_kwargs: Any = None, **kwargs: Any
    ) -> Any:
        """A generator whose models translate under the direction's own mask."""
        for model in models:
            if isinstance(model, MaskedTransformer):
                model.set_direction(f"{self.args.source_lang}-{self.args.target_lang}")
        return super().build_generator(models, args, seq_gen_cls, extra_gen_cls_kwargs)
