"""Mask selections (``masks:``): which neurons each direction keeps, a class a method."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Discriminator, Field, Tag, model_validator

from neuron_specialization.config.sections import Section, Training
from neuron_specialization.directions import Direction
from neuron_specialization.run_names import SEPARATOR

Percentage = Annotated[float, Field(gt=0, le=100)]
Side = Literal["encoder", "decoder"]
# a selection, or in a MaskSpec its run under a further seed
SelectionName = Annotated[
    str, Field(pattern=rf"^[A-Za-z0-9][A-Za-z0-9_.]*({SEPARATOR}[0-9]+)?$", max_length=80)
]


class SidesK(Section):
    """A ``k`` for the encoder's layers and one for the decoder's."""

    encoder: Percentage
    decoder: Percentage


def _kind_of_k(value: Any) -> str:
    # errors name the class in angle brackets; validation.py takes it out of what a person reads
    if isinstance(value, SidesK | dict):
        groups = isinstance(value, dict) and {"from_pivot", "to_pivot", "other"} & set(value)
        return "<GroupsK>" if groups else "<SidesK>"
    return "<GroupsK>" if isinstance(value, GroupsK) else "<number>"


OneK = Annotated[
    Annotated[Percentage, Tag("<number>")] | Annotated[SidesK, Tag("<SidesK>")], Discriminator(_kind_of_k)
]


class GroupsK(Section):
    """A ``k`` for directions from the pivot (en→X), one for those to it (X→en), one for all others."""

    from_pivot: OneK
    to_pivot: OneK
    other: OneK = 95.0


AnyK = Annotated[
    Annotated[Percentage, Tag("<number>")]
    | Annotated[SidesK, Tag("<SidesK>")]
    | Annotated[GroupsK, Tag("<GroupsK>")],
    Discriminator(_kind_of_k),
]


def k_of(k: float | SidesK | GroupsK, direction: Direction, side: Side, pivot: str | None) -> float:
    """Return the percentage for one side of one direction."""
    if isinstance(k, GroupsK):
        k = (
            k.from_pivot
            if direction.source == pivot
            else k.to_pivot
            if direction.target == pivot
            else k.other
        )
    return getattr(k, side) if isinstance(k, SidesK) else k


class _Made(Section):
    """What all selections that are made here have in common."""

    # which layers are masked; those of the other side keep all their neurons
    sides: Literal["both", "encoder", "decoder"] = "both"

    @property
    def source(self) -> str | None:
        """The folder it is read from: none."""
        return None

    @property
    def parent(self) -> str | None:
        """The selection it is made from, if it is."""
        return None


class ActivationMasks(_Made):
    """The method of the paper: the smallest set of neurons that makes up ``k`` % of the activity."""

    k: AnyK = 95.0
    tie_break: Literal["index", "torch-sort"] = "index"
    method: Literal["activation"] = "activation"


class RandomMasks(_Made):
    """The control for *which* neurons: as many as ``like`` keeps, per direction and layer, at random.

    ``draw: neurons`` draws for each direction by itself. ``draw: permutation`` renames the neurons of
    ``like`` by one random permutation a layer: what directions share stays exactly as large as it is there.
    """

    method: Literal["random"]
    like: SelectionName
    draw: Literal["neurons", "permutation"] = "neurons"

    @property
    def parent(self) -> str | None:
        return self.like


class MagnitudeMasks(_Made):
    """After LaSS (Lin et al., ACL 2021): the neurons of largest weights after a fine-tuning on the direction.

    As many as ``like`` keeps, per direction and layer, or ``keep`` % of every layer. ``finetuning`` is what
    differs, in that short fine-tuning, from what systems with a ``from:`` are trained with.
    """

    method: Literal["magnitude"]
    like: SelectionName | None = None
    keep: Percentage | None = None
    finetuning: Training = Training()

    @property
    def parent(self) -> str | None:
        return self.like

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if (self.like is None) == (self.keep is None):
            raise ValueError(
                "method: magnitude needs either like: (a selection) or keep: (percent of a layer)"
            )
        return self


class FamilyMasks(_Made):
    """One mask for all directions of a branch (en→Germanic, Germanic→en, …), from the selection ``like``.

    ``union`` or ``intersection`` of its masks, or ``pooled``: their activations added up, then its ``k``.
    """

    method: Literal["family"]
    like: SelectionName
    combine: Literal["union", "intersection", "pooled"] = "union"

    @property
    def parent(self) -> str | None:
        return self.like


class ImportedMasks(Section):
    """Masks the reference made: ``<direction>.pt`` in the folder ``source``."""

    source: str
    method: Literal["imported"] = "imported"

    @property
    def parent(self) -> None:
        """The selection it is made from: none."""
        return None

    @model_validator(mode="before")
    @classmethod
    def _read_not_made(cls, values: Any) -> Any:
        if isinstance(values, dict) and {"k", "tie_break"} & set(values):
            raise ValueError("masks with a source: are read, not made: k and tie_break have no use")
        return values


SELECTION_CLASSES = (ActivationMasks, RandomMasks, MagnitudeMasks, FamilyMasks, ImportedMasks)
_BY_METHOD = {get_args(kind.model_fields["method"].annotation)[0]: kind for kind in SELECTION_CLASSES}


def _kind_of_selection(value: Any) -> str | None:
    if isinstance(value, Section):
        return f"<{type(value).__name__}>"
    if not isinstance(value, dict):
        return "<ActivationMasks>"
    method = value.get("method", "imported" if "source" in value else "activation")
    return f"<{_BY_METHOD[method].__name__}>" if method in _BY_METHOD else None


MaskSelection = Annotated[
    Annotated[ActivationMasks, Tag("<ActivationMasks>")]
    | Annotated[RandomMasks, Tag("<RandomMasks>")]
    | Annotated[MagnitudeMasks, Tag("<MagnitudeMasks>")]
    | Annotated[FamilyMasks, Tag("<FamilyMasks>")]
    | Annotated[ImportedMasks, Tag("<ImportedMasks>")],
    Discriminator(
        _kind_of_selection,
        custom_error_type="unknown_method",
        custom_error_message=f"method is one of {', '.join(_BY_METHOD)}",
    ),
]
