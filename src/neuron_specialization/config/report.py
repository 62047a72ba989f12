"""The report's section: what is compared with what, and how thoroughly the overlap of masks is tested."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from neuron_specialization.config.sections import Name, Positive, Section


class Report(Section):
    """Comparisons, figures and the report page."""

    # the system that every other is compared with; null: `continued` where there is one, else the baseline
    compare_to: Name | None = None
    # trials of the paired approximate randomisation
    trials: Annotated[int, Field(ge=2)] = 10_000
    # of the test of family structure, where all arrangements are too many to try
    permutations: Positive = 10_000
