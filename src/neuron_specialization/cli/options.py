"""Options that several commands share: their types, and decorators that add them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from neuron_specialization.directions import Direction
from neuron_specialization.errors import ConfigError
from neuron_specialization.machine import usable_cores

if TYPE_CHECKING:
    from neuron_specialization.evaluation.tables import DirectionGroup

Command = TypeVar("Command", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)
FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
EXISTING_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
EXISTING_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


def name_list(context: click.Context, parameter: click.Parameter, value: str | None) -> list[str]:
    """The callback of an option that takes a list: ``en, de`` → en and de; not given → an empty list.

    Raises:
        click.BadParameter: a name is there twice, or the option is given without one.
    """
    names = [name.strip() for name in (value or "").split(",") if name.strip()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise click.BadParameter(f"{', '.join(twice)} is listed twice")
    if not names and value is not None:
        raise click.BadParameter("lists nothing")
    return names


def direction_list(context: click.Context, parameter: click.Parameter, value: str | None) -> list[str]:
    """As ``name_list``, each a direction."""
    return [str(Direction.parse(name)) for name in name_list(context, parameter, value)]


def detokenizer_option(help: str) -> Callable[[Command], Command]:
    """``--detokenizer``, or for short ``--detokenize``: what is done to texts before they are scored."""
    from neuron_specialization.evaluation.detokenize import DETOKENIZERS

    return click.option(
        "--detokenize",
        "--detokenizer",
        "detokenizer",
        type=click.Choice(DETOKENIZERS),
        default="none",
        show_default=True,
        help=help,
    )


def interval_options(command: Command) -> Command:
    """``--bootstrap``, ``--confidence`` and ``--seed`` of a score's interval (scoring.Bootstrap)."""
    from neuron_specialization.evaluation.scoring import BOOTSTRAP_SEED

    return _all(
        click.option(
            "--bootstrap", default=1000, show_default=True, help="Resamples for the interval; 0: no interval."
        ),
        click.option("--confidence", default=0.95, show_default=True, help="Of the interval."),
        click.option("--seed", default=BOOTSTRAP_SEED, show_default=True, help="Of the resampling."),
    )(command)


def translator_options(command: Command) -> Command:
    """``--threads``, ``--compute-type``, ``--device`` and ``--cache``: how a model runs (Translator.load)."""
    return _all(
        click.option(
            "--threads",
            type=click.IntRange(1),
            default=usable_cores,
            help="CPU threads [default: the cores of this process].",
        ),
        click.option(
            "--compute-type",
            default="default",
            show_default=True,
            help="CTranslate2's: int8, float32, …; default: as exported.",
        ),
        click.option("--device", default="cpu", show_default=True, help="cpu or cuda."),
        click.option(
            "--cache",
            type=PATH,
            help="Folder of models made from a bundle"
            " [default: $NEURON_SPECIALIZATION_CACHE, else ~/.cache/…].",
        ),
    )(command)


def groups_option(command: Command) -> Command:
    """``--groups``, which parse_groups reads."""
    return click.option(
        "--groups", required=True, help="Every direction with its group, tier and branch: JSON or a file."
    )(command)


def parse_groups(text: str) -> list[DirectionGroup]:
    """Read ``--groups``: JSON, or the path of a JSON file.

    Raises:
        ConfigError: it is neither, or its rows are not direction, group, tier, branch.
    """
    from neuron_specialization.evaluation.tables import DirectionGroup

    try:
        groups = [DirectionGroup(**row) for row in json_list(text)]
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"--groups is not a list of directions: {error}",
            hint='give [{"direction": "cs-en", "group": "X→en", "tier": "high", "branch": "Slavic"}, …]',
        ) from None
    if len({group.direction for group in groups}) != len(groups) or not groups:
        raise ConfigError("--groups lists no direction, or one twice")
    return groups


def json_list(text: str) -> Any:
    """Read a list given as JSON, or as the path of a JSON file."""
    return json.loads(text if text.lstrip().startswith("[") else Path(text).read_text(encoding="utf-8"))


def first_seed_option(command: Command) -> Command:
    """``--seed``, of which the runs have the systems' plain names."""
    return click.option(
        "--seed", type=int, help="Of the systems' first runs; those of others are called SYSTEM@SEED."
    )(command)


def _all(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """One decorator of several; they are listed in this order."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add
