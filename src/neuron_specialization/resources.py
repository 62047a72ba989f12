"""Tables shipped with the project (``data/`` in the repository, inside the package when installed)."""

from __future__ import annotations

from pathlib import Path

from neuron_specialization.errors import NeuronSpecializationError


def data_file(name: str) -> Path:
    """Return the path of ``data/<name>``.

    Raises:
        NeuronSpecializationError: the installation lacks it.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "data", package.parents[1] / "data"):
        if (folder / name).is_file():
            return folder / name
    raise NeuronSpecializationError(
        f"the installation lacks data/{name}", where=package, hint="reinstall: make env"
    )
