"""Neuron Specialization for multilingual machine translation (Tan, Wu and Monz, EMNLP 2024).

The package knows nothing of Snakemake: every stage of the workflow is a module here with a
command of its own (``python -m neuron_specialization --help``). See docs/architecture.md.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neuron_specialization.translation.translator import Translator

__all__ = ["Translator", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import `Translator` on first use: most commands do without it."""
    if name == "Translator":
        from neuron_specialization.translation.translator import Translator

        return Translator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
