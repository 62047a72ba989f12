"""Neuron Specialization for multilingual machine translation (Tan, Wu and Monz, EMNLP 2024).

The package knows nothing of Snakemake: every stage of the workflow is a module here with a
command of its own (``python -m neuron_specialization --help``). See docs/architecture.md.
"""

__version__ = "0.1.0"
