"""The command line: thin commands over the package's functions, and the only place that exits.

Each command lives in a module of this package that is imported when that command runs and not
before, so that scoring does not pay for importing torch.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from typing import Any, NoReturn

import click

from neuron_specialization import __version__
from neuron_specialization.errors import FileError, NeuronSpecializationError

# command → module in this package; the function has the command's name with _ for -
COMMANDS: dict[str, str] = {
    "init": "init",
    "fetch": "data",
    "corpus": "data",
    "testset": "data",
    "vocabulary": "data",
    "binarize": "data",
    "unpack": "take_over",
    "take-over-data-bin": "take_over",
    "take-over-model": "take_over",
    "train": "train",
    "activations": "masks",
    "masks": "masks",
    "overlap": "masks",
    "compose-masks": "zero_shot",
    "pair-by-pivot": "zero_shot",
    "export": "export",
    "import-activations": "mask_formats",
    "import-masks": "mask_formats",
    "export-masks": "mask_formats",
    "import-checkpoint": "checkpoint_formats",
    "export-checkpoint": "checkpoint_formats",
    "translate": "translate",
    "serve": "serve",
    "score": "score",
    "published-table": "score",
    "comet": "comet",
    "compare": "compare",
    "tables": "tables",
    "costs": "costs",
    "perplexity": "costs",
    "figures": "figures",
    "evaluation-tables": "tables",
    "report": "report",
    "inspect": "inspect",
    "doctor": "doctor",
    "licences": "licences",
}


class _ReaderGoneError(Exception):
    """The reader of our output went away (``| head``)."""


class LazyGroup(click.Group):
    """A group whose commands are imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module_name = COMMANDS.get(cmd_name)
        if module_name is None:
            return None
        module = importlib.import_module(f"neuron_specialization.cli.{module_name}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise _ReaderGoneError from None  # as it is, click would end with status 1

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS:
            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            suggestion = f" Did you mean {close[0]!r}?" if close else ""
            ctx.fail(f"No such command {args[0]!r}.{suggestion}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="neuron-specialization")
def cli() -> None:
    """Train, specialise, score and ship multilingual translation models by Neuron Specialization."""


def main(arguments: list[str] | None = None) -> Any:
    """Run a command. Exit status: 0 done, 1 an explained error, 2 wrong usage, 130 interrupted."""
    try:
        return cli.main(args=arguments, prog_name="neuron-specialization", standalone_mode=False)
    except NeuronSpecializationError as error:
        _explain(error)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except _ReaderGoneError:
        # not an error of ours; what is left is written to nowhere when Python ends
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        _explain(FileError.of(error))


def _explain(error: NeuronSpecializationError) -> NoReturn:
    """Print an error and exit; inside an ``except`` block."""
    click.echo(f"error: {error}", err=True)
    if os.environ.get("NEURON_SPECIALIZATION_TRACEBACK"):
        raise
    sys.exit(1)
