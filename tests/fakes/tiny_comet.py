"""Make a tiny, randomly initialised COMET model (run by the Python of COMET's environment, with a folder)."""

from __future__ import annotations

import json
import string
import sys
from pathlib import Path

import pytorch_lightning
import torch
import yaml
from comet.models import RegressionMetric
from transformers import BertConfig


def main(folder: Path) -> None:
    encoder = folder / "encoder"
    encoder.mkdir(parents=True)
    (folder / "checkpoints").mkdir()
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (encoder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    (encoder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}), encoding="utf-8")
    BertConfig(
        vocab_size=len(pieces),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=128,
    ).save_pretrained(encoder)
    hparams = {
        "encoder_model": "BERT",
        "pretrained_model": str(encoder),
        "hidden_sizes": [8],
        "load_pretrained_weights": False,
        "local_files_only": True,
    }
    torch.manual_seed(0)
    model = RegressionMetric(**hparams)
    checkpoint = {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "pytorch-lightning_version": pytorch_lightning.__version__,
        "epoch": 0,
        "global_step": 0,
    }
    torch.save(checkpoint, folder / "checkpoints" / "model.ckpt")
    (folder / "hparams.yaml").write_text(
        yaml.safe_dump({**hparams, "class_identifier": "regression_metric"}), encoding="utf-8"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
