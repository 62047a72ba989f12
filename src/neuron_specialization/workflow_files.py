"""The workflow that the package brings along: written into a folder, where ``snakemake`` runs it.

An installed package has the Snakefile, the rules and what goes with them in ``workflow/``; a checkout has
them at its root. What a user edits (configurations and profiles) is told apart from what is the project's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from neuron_specialization import __version__
from neuron_specialization.errors import NeuronSpecializationError, first_few
from neuron_specialization.storage.files import atomic_path

# of the project: replaced by an update
OWN = ("Snakefile", "rules", "report", "envs", "requirements", "docs")
# of the user from the moment they are written
EDITED = ("config.yaml", "configs", "profiles")

_EDITABLE = "- --editable .."


@dataclass(frozen=True)
class Written:
    """What was done: names relative to the folder, sorted.

    Attributes:
        written: new, or replaced.
        kept: there already: equal, or the user's own.
    """

    written: list[str]
    kept: list[str]


def workflow_folder() -> Path:
    """Return the folder that has the ``Snakefile`` of this version.

    Raises:
        NeuronSpecializationError: the installation lacks it.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "workflow", package.parents[1]):
        if (folder / "Snakefile").is_file():
            return folder
    raise NeuronSpecializationError(
        "the installation lacks the workflow", where=package, hint="install the package again"
    )


def workflow_files(folder: Path) -> list[str]:
    """Return the names of the workflow's files, relative to the folder, sorted."""
    return sorted(_files(folder, (*OWN, *EDITED)))


def _files(folder: Path, names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        path = folder / name
        found = path.rglob("*") if path.is_dir() else [path]
        for each in found:
            parts = each.relative_to(folder).parts
            if each.is_file() and "__pycache__" not in parts and not each.name.startswith("."):
                yield "/".join(parts)


def write_workflow(target: str | Path, *, update: bool = False) -> Written:
    """Write the workflow into a folder. All or nothing is checked before anything is written.

    Args:
        target: made if need be. Files of another content that stand there are refused.
        update: replace the project's own files (``OWN``) by those of this version; configurations and
            profiles stay as they are.

    Raises:
        NeuronSpecializationError: files are in the way, or the folder is the workflow's own.
    """
    source, target = workflow_folder(), Path(target)
    if target.resolve() == source.resolve():
        raise NeuronSpecializationError(
            "this is the checkout that the workflow is in: it runs as it stands", where=target
        )
    contents = {name: _content(source / name) for name in workflow_files(source)}
    present = {name for name in contents if (target / name).exists()}
    differing = {name for name in present if not _holds(target / name, contents[name])}
    replaced = {name for name in differing if update and name.split("/")[0] in OWN}
    in_the_way = sorted(differing - replaced)
    if in_the_way and not update:
        raise NeuronSpecializationError(
            f"files of another content are in the way: {first_few(in_the_way, 5)}",
            where=target,
            hint="choose another folder; or, to bring the rules of an older version up to date and keep your"
            " configurations and profiles: --update",
        )
    written = sorted((set(contents) - present) | replaced)
    for name in written:
        with atomic_path(target / name) as temporary:
            temporary.write_bytes(contents[name])
    return Written(written, sorted(set(contents) - set(written)))


def _content(path: Path) -> bytes:
    data = path.read_bytes()
    if path.name == "workflow.yaml" and path.parent.name == "envs":
        # beside a checkout conda's environment installs it; here there is none
        data = data.replace(_EDITABLE.encode(), f"- neuron-specialization=={__version__}".encode())
    return data


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content
