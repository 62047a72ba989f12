"""``masked_transformer``: fairseq's Transformer whose FFNs are masked by translation direction.

Parameters have the names and shapes of fairseq's ``transformer``; the masks are boolean buffers
``{encoder,decoder}.layers.<i>.fc1.masks`` [directions, d_ff] and travel in the checkpoint, so a specialised
model is complete in one file. Teacher-forced passes take the quick path (``fast_transformer``);
incremental decoding is fairseq's own code over the same parameters.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any, Self

import torch
from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer import (
    TransformerConfig,
    TransformerDecoderBase,
    TransformerEncoderBase,
    TransformerModel,
    base_architecture,
)
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase, TransformerEncoderLayerBase
from torch import Tensor, nn
from torch.nn import functional as F

from neuron_specialization.errors import MaskError
from neuron_specialization.fairseq_plugin.direction_table import DirectionTable
from neuron_specialization.fairseq_plugin.feed_forward import (
    FusedFfn,
    MaskedLinear,
    MixedParts,
    SeparateFfn,
    fused_ffn_serves,
    masked_fc1,
    mixed_parts,
    need_order,
)
from neuron_specialization.fairseq_plugin.muon import mark_hidden_matrices
from neuron_specialization.storage.layer_masks import check_shapes
from neuron_specialization.transformer import fast_transformer
from neuron_specialization.transformer.fast_dropout import DropoutPool
from neuron_specialization.transformer.products import Linear, bfloat16_is_faster, bfloat16_linear


class MaskedEncoderLayer(TransformerEncoderLayerBase):
    def build_fc1(self, input_dim: int, output_dim: int, q_noise: float, qn_block_size: int) -> MaskedLinear:
        return masked_fc1(input_dim, output_dim, q_noise, qn_block_size)


class MaskedDecoderLayer(TransformerDecoderLayerBase):
    def build_fc1(self, input_dim: int, output_dim: int, q_noise: float, qn_block_size: int) -> MaskedLinear:
        return masked_fc1(input_dim, output_dim, q_noise, qn_block_size)


class MaskedEncoder(TransformerEncoderBase):
    def build_encoder_layer(self, cfg: Any) -> MaskedEncoderLayer:
        return MaskedEncoderLayer(cfg, return_fc=self.return_fc)


class MaskedDecoder(TransformerDecoderBase):
    def build_decoder_layer(self, cfg: Any, no_encoder_attn: bool = False) -> MaskedDecoderLayer:
        return MaskedDecoderLayer(cfg, no_encoder_attn)


@register_model("masked_transformer")
class MaskedTransformer(TransformerModel):
    """See the module's text."""

    @classmethod
    def add_args(cls, parser: ArgumentParser) -> None:
        super().add_args(parser)
        parser.add_argument(
            "--implementation",
            choices=["fast", "stock"],
            help="teacher-forced passes by this project's quick code (default) or by fairseq's own",
        )
        parser.add_argument(
            "--products",
            choices=["fp32", "bf16", "auto"],
            help="factors of the quick code's matrix products on a CPU; auto: bf16 where that is faster",
        )

    @classmethod
    def build_encoder(cls, args: Any, src_dict: Any, embed_tokens: nn.Embedding) -> MaskedEncoder:
        return MaskedEncoder(TransformerConfig.from_namespace(args), src_dict, embed_tokens)

    @classmethod
    def build_decoder(cls, args: Any, tgt_dict: Any, embed_tokens: nn.Embedding) -> MaskedDecoder:
        return MaskedDecoder(TransformerConfig.from_namespace(args), tgt_dict, embed_tokens)

    @classmethod
    def build_model(cls, args: Namespace, task: Any) -> MaskedTransformer:
        model = super().build_model(args, task)
        model.implementation = getattr(args, "implementation", None) or "fast"
        mark_hidden_matrices(model.encoder.layers, model.decoder.layers)
        model.seed = int(getattr(args, "seed", 1))
        products = getattr(args, "products", None) or "fp32"
        model.bfloat16_products = products == "bf16" or (products == "auto" and bfloat16_is_faster())
        if not model._fast_is_exact():
            model.implementation = "stock"
        directions = list(getattr(args, "mask_directions", None) or [])
        if directions:
            model.allocate_masks(directions, list(task.langs), task.source_dictionary)
        return model

    def __init__(self, args: Any, encoder: MaskedEncoder, decoder: MaskedDecoder) -> None:
        super().__init__(args, encoder, decoder)
        self.implementation = "fast"
        self.bfloat16_products = False
        self.seed = 1
        self.mask_directions: list[str] = []
        self.fixed_direction: int | None = None
        self._masks_set = False
        self._pool: DropoutPool | None = None
        self._updates = 0
        self.direction_table: DirectionTable | None = None

    # ---- masks ----

    def masked_layers(self) -> dict[str, MaskedLinear]:
        """Layer name (``encoder.layers.0``) → its fc1."""
        return {
            f"{name}.layers.{i}": layer.fc1
            for name, stack in (("encoder", self.encoder), ("decoder", self.decoder))
            for i, layer in enumerate(stack.layers)
        }

    def allocate_masks(self, directions: list[str], languages: list[str], dictionary: Any) -> None:
        """Make room for one mask per direction (all neurons kept) and the table that finds it by tags."""
        self.mask_directions = directions
        for fc1 in self.masked_layers().values():
            fc1.masks = torch.ones(len(directions), fc1.out_features, dtype=torch.bool)
        self.direction_table = DirectionTable(directions, languages, dictionary)

    def set_masks(self, masks: dict[str, dict[str, Tensor]]) -> None:
        """Fill the masks.

        Args:
            masks: direction → layer name → bool[d_ff].

        Raises:
            MaskError: a direction, a layer or a shape does not fit this model.
        """
        layers = self.masked_layers()
        widths = {name: fc1.out_features for name, fc1 in layers.items()}
        for number, direction in enumerate(self.mask_directions):
            if direction not in masks:
                raise MaskError(f"no mask for direction {direction}", hint="run the masks stage for it")
            given = masks[direction]
            check_shapes({name: len(mask) for name, mask in given.items()}, widths, direction)
            for name, fc1 in layers.items():
                assert fc1.masks is not None
                fc1.masks[number] = given[name].to(fc1.masks)
                fc1.forget()
        self._masks_set = True

    def set_direction(self, direction: str | None) -> None:
        """Use one direction's mask for every batch (translation), or go back to reading the tags (None).

        Raises:
            MaskError: the model has masks, but none for this direction.
        """
        if direction is not None and self.mask_directions and direction not in self.mask_directions:
            raise MaskError(
                f"this model has no mask for {direction}",
                hint=f"its directions: {', '.join(self.mask_directions)}",
            )
        self.fixed_direction = (
            self.mask_directions.index(direction) if direction and self.mask_directions else None
        )
        for fc1 in self.masked_layers().values():
            fc1.rows = None
            if self.fixed_direction is not None and fc1.masks is not None:
                fc1.rows = fc1.masks[self.fixed_direction].to(fc1.weight.dtype)

    def directions_of(self, src_tokens: Tensor, prev_output_tokens: Tensor) -> Tensor:
        """The direction of each sentence by its tags.

        Args:
            src_tokens: int64[B, S]; the source tag is the first token that is not padding.
            prev_output_tokens: int64[B, T]; the target tag follows ``</s>``.

        Returns:
            int64[B], an index into ``mask_directions``.

        Raises:
            MaskError: a sentence is of a direction that has no mask.
        """
        assert self.direction_table is not None  # allocate_masks
        directions: Tensor = self.direction_table(src_tokens, prev_output_tokens[:, 1])
        if bool((directions < 0).any()):  # as an index, -1 would be the last direction
            raise MaskError(
                "a sentence is of a direction that this model has no mask for, going by its tags",
                hint=f"its directions: {', '.join(self.mask_directions)}",
            )
        return directions

    # ---- forward ----

    def train(self, mode: bool = True) -> Self:
        # fairseq asks twice an update, and each time a hundred modules would be gone through
        return self if self.training == mode else super().train(mode)

    def set_num_updates(self, num_updates: int) -> None:
        super().set_num_updates(num_updates)
        self._updates = num_updates

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor,
        prev_output_tokens: Tensor,
        features_only: bool = False,
        direction: int | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Teacher-forced pass.

        Args:
            direction: index of the direction of the whole batch when the caller knows that there is
                but one (``batching: single-direction``); otherwise the tags are read.

        Returns:
            (logits [B, T, V] or with ``features_only`` features [B, T, d], {}).

        Raises:
            MaskError: see directions_of.
        """
        rows: Tensor | None = None
        if self.mask_directions and direction is None:
            direction = self.fixed_direction
            if direction is None:
                rows = self.directions_of(src_tokens, prev_output_tokens)
        elif not self.mask_directions:
            direction = None
        if self.implementation == "stock":
            return self._stock_forward(
                src_tokens, src_lengths, prev_output_tokens, features_only, rows, direction
            )
        features = self._fast_features(src_tokens, prev_output_tokens, rows, direction)
        return (features if features_only else self.decoder.output_layer(features)), {}

    def _stock_forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor,
        prev_output_tokens: Tensor,
        features_only: bool,
        rows: Tensor | None,
        direction: int | None,
    ) -> tuple[Tensor, dict[str, Any]]:
        for fc1 in self.masked_layers().values():
            if fc1.masks is not None:
                chosen = fc1.masks[rows] if rows is not None else fc1.masks[direction]
                fc1.rows = chosen.to(fc1.weight.dtype)
        return super().forward(src_tokens, src_lengths, prev_output_tokens, features_only=features_only)

    def _fast_features(
        self, src_tokens: Tensor, prev_output_tokens: Tensor, rows: Tensor | None, direction: int | None
    ) -> Tensor:
        pool = self._dropout_pool()
        attention_dropout = float(self.cfg.attention_dropout) if self.training else 0.0
        bfloat16 = self.bfloat16_products and self.training
        linear: Linear = bfloat16_linear if bfloat16 else F.linear
        activation_dropout = float(self.cfg.activation_dropout) if self.training else 0.0
        order: Tensor | None = None
        feed_forward: fast_transformer.FeedForward
        if activation_dropout or not fused_ffn_serves(self.encoder.embed_tokens.weight):
            feed_forward = SeparateFfn(rows, direction, activation_dropout, linear)
        else:
            parts: MixedParts = {}
            if rows is not None:
                parts = self._mixed_parts(src_tokens, prev_output_tokens, rows, bfloat16=bfloat16)
                if need_order(parts):
                    order = torch.argsort(rows, stable=True)
                    rows = rows[order]
                    src_tokens, prev_output_tokens = src_tokens[order], prev_output_tokens[order]
            feed_forward = FusedFfn(rows, parts, direction, bfloat16)
        states, bias = fast_transformer.encode(
            self.encoder,
            src_tokens,
            feed_forward=feed_forward,
            drop=pool,
            attention_dropout=attention_dropout,
            linear=linear,
        )
        features = fast_transformer.decode(
            self.decoder,
            prev_output_tokens,
            states,
            bias,
            feed_forward=feed_forward,
            drop=pool,
            attention_dropout=attention_dropout,
            linear=linear,
        )
        return features if order is None else features.index_select(0, torch.argsort(order))

    def _mixed_parts(
        self, src_tokens: Tensor, prev_output_tokens: Tensor, rows: Tensor, *, bfloat16: bool
    ) -> MixedParts:
        lengths = {
            layer.fc1: tokens.shape[1]
            for stack, tokens in ((self.encoder, src_tokens), (self.decoder, prev_output_tokens))
            for layer in stack.layers
        }
        return mixed_parts(lengths, rows, int(self.encoder.embed_tokens.embedding_dim), bfloat16=bfloat16)

    def _dropout_pool(self) -> DropoutPool:
        if not self.training:
            return DropoutPool(0.0, self.seed)
        if self._pool is None:
            self._pool = DropoutPool(float(self.cfg.dropout), self.seed)
        self._pool.set_update(self._updates)
        return self._pool

    def _fast_is_exact(self) -> bool:
        """Whether the quick code computes this architecture; fairseq's own does every other."""
        cfg = self.cfg
        return bool(
            cfg.encoder.normalize_before
            and cfg.decoder.normalize_before
            and cfg.activation_fn == "relu"
            and not cfg.layernorm_embedding
            and not cfg.no_token_positional_embeddings
            and not cfg.no_decoder_final_norm
            and not cfg.relu_dropout  # an older name of activation_dropout, which counts where that is 0
            and not cfg.encoder.layerdrop
            and not cfg.decoder.layerdrop
            and not cfg.adaptive_softmax_cutoff
            and not cfg.no_cross_attention
            and not cfg.cross_self_attention
            and cfg.encoder.embed_dim == cfg.decoder.embed_dim == cfg.decoder.output_dim
        )

    # ---- checkpoints ----

    def upgrade_state_dict_named(self, state_dict: dict[str, Tensor], name: str) -> None:
        """Let a baseline's checkpoint, or that of other masks, start a specialised model under its own masks.

        Masks that were set (``set_masks``) stay; a model that was only told its directions takes the
        checkpoint's.
        """
        super().upgrade_state_dict_named(state_dict, name)
        for layer, fc1 in self.masked_layers().items():
            key = f"{layer}.fc1.masks"
            if fc1.masks is None:
                state_dict.pop(key, None)
            elif self._masks_set:
                state_dict[key] = fc1.masks
            else:
                state_dict.setdefault(key, fc1.masks)


@register_model_architecture("masked_transformer", "masked_transformer")
def masked_transformer(args: Namespace) -> None:
    """Pre-norm, the paper's choice; sizes are fairseq's defaults unless given."""
    args.encoder_normalize_before = getattr(args, "encoder_normalize_before", True)
    args.decoder_normalize_before = getattr(args, "decoder_normalize_before", True)
    args.implementation = getattr(args, "implementation", None) or "fast"
    base_architecture(args)
