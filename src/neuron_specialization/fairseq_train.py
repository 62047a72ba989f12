"""``fairseq-train`` with bfloat16 on any device: ``python -m neuron_specialization.fairseq_train``.

fairseq takes ``--bf16`` for a wish for a TPU, and then asks for torch_xla. Its trainer and optimizer compute
in bfloat16 on a GPU or a CPU as well. Everything else is fairseq's own entry point.
"""

from __future__ import annotations


def main() -> None:
    # before the rest of fairseq: it sets up the logging
    from fairseq_cli import train  # type: ignore[import-untyped]  # isort: skip
    from fairseq import options
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from fairseq.distributed import utils as distributed_utils

    arguments = options.parse_args_and_arch(options.get_training_parser())
    arguments.tpu = False
    distributed_utils.call_main(convert_namespace_to_omegaconf(arguments), train.main)


if __name__ == "__main__":
    main()
