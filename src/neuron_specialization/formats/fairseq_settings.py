"""fairseq's names for settings of a model and of a task, with the values that mean this project's usual."""

from __future__ import annotations

from typing import Any

# fairseq's settings of the Transformer, with the values that hold where a checkpoint does not say
MODEL_DEFAULTS: dict[str, Any] = {
    "encoder_layers": 6,
    "decoder_layers": 6,
    "encoder_embed_dim": 512,
    "decoder_embed_dim": 512,
    "encoder_ffn_embed_dim": 2048,
    "decoder_ffn_embed_dim": 2048,
    "encoder_attention_heads": 8,
    "decoder_attention_heads": 8,
    "encoder_normalize_before": False,
    "decoder_normalize_before": False,
    "share_all_embeddings": False,
    "share_decoder_input_output_embed": False,
    "activation_fn": "relu",
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "max_source_positions": 1024,
    "max_target_positions": 1024,
    "encoder_learned_pos": False,
    "decoder_learned_pos": False,
    "no_token_positional_embeddings": False,
    "no_scale_embedding": False,
    "layernorm_embedding": False,
}

# positions and widths of a model; layers and heads; far beyond any that is computed
_MOST, _MOST_PARTS = 2**24, 1000


def setting_fits(key: str, value: Any) -> bool:
    """Whether a value of MODEL_DEFAULTS's ``key`` has the type and the magnitude that a model's can have."""
    default = MODEL_DEFAULTS[key]
    if isinstance(default, bool):
        return value in (False, True, None)
    if isinstance(default, int):
        least = 0 if key.endswith("_layers") else 1
        most = _MOST_PARTS if key.endswith(("_layers", "_heads")) else _MOST
        return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
    if isinstance(default, float):
        return isinstance(value, int | float) and 0 <= value <= 1
    return isinstance(value, str)


# settings that change the network into something this project does not compute, with their harmless values
HARMLESS: dict[str, Any] = {
    "adaptive_softmax_cutoff": None,
    "adaptive_input": False,
    "no_cross_attention": False,
    "no_decoder_final_norm": False,
    "cross_self_attention": False,
    "encoder_layers_to_keep": None,
    "decoder_layers_to_keep": None,
    "merge_src_tgt_embed": False,
    "base_layers": 0,
    "lang_tok_replacing_bos_eos": False,
    "extra_data": None,
}

TASK_DEFAULTS: dict[str, Any] = {
    "source_lang": None,
    "target_lang": None,
    "keep_inference_langtok": False,
    "sampling_method": "temperature",
    "sampling_temperature": 1.0,
    "data": "",
    "lang_dict": None,
    "source_dict": None,
    "target_dict": None,
    "lang_tok_style": "multilingual",
    "load_alignments": False,
    "left_pad_source": "True",
    "left_pad_target": "False",
    "upsample_primary": 1,
    "truncate_source": False,
    "encoder_langtok": "src",
    "decoder_langtok": True,
    "lang_tok_replacing_bos_eos": False,
    "enable_lang_ids": False,
    "enable_reservsed_directions_shared_datasets": False,
    "extra_data": None,
    "extra_lang_pairs": None,
    "fixed_dictionary": None,
    "langtoks_specs": ["main"],
    "langtoks": None,
    "sampling_weights_from_file": None,
    "sampling_weights": None,
    "virtual_epoch_size": None,
    "virtual_data_size": None,
    "seed": 1,
}
