"""The translate command: line in, line out."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, Literal, cast

import click

from neuron_specialization.cli.options import PATH, translator_options
from neuron_specialization.errors import CorpusError, TranslationError
from neuron_specialization.export.model_directory import InputFormat
from neuron_specialization.storage.files import atomic_text
from neuron_specialization.translation.engine import SearchOptions
from neuron_specialization.translation.streams import translate_stream, write_translations
from neuron_specialization.translation.translator import TooLong, Translator


@click.command()
@click.option(
    "--model", type=PATH, help="Exported model, a system's folder of them, or a bundle (engine ctranslate2)."
)
@click.option("--direction", help="E.g. de-en; may be left out where the model has but one.")
@click.option(
    "--engine",
    type=click.Choice(["ctranslate2", "fairseq"]),
    default="ctranslate2",
    show_default=True,
    help="fairseq needs --checkpoint and --vocabulary instead of --model.",
)
@click.option("--checkpoint", type=PATH, help="model.pt or a fairseq checkpoint (engine fairseq).")
@click.option("--mask", type=PATH, help="The direction's mask file (engine fairseq, specialised systems).")
@click.option("--vocabulary", type=PATH, help="Folder with spm.model and dict.txt (engine fairseq).")
@click.option("--input", "inputs", type=PATH, multiple=True, help="Text, a segment a line [default: stdin].")
@click.option(
    "--input-format",
    type=click.Choice(["text", "pieces"]),
    default="text",
    show_default=True,
    help="pieces: the lines are segmented already.",
)
@click.option(
    "--output",
    "outputs",
    type=PATH,
    multiple=True,
    help="One for each --input; complete or not there (a pipe or a device: as it comes).",
)
@click.option("--beam", type=click.IntRange(1), default=5, show_default=True)
@click.option("--length-penalty", type=float, default=1.0, show_default=True)
@click.option(
    "--max-length", type=click.IntRange(1), default=200, show_default=True, help="Target tokens of a segment."
)
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True, help="Sentences.")
@click.option(
    "--nbest",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Several hypotheses a line; as text: index ||| translation ||| score.",
)
@click.option("--json", "as_json", is_flag=True, help="A JSON object a line: translation, score, hypotheses.")
@click.option(
    "--too-long",
    type=click.Choice(["split", "refuse"]),
    default="split",
    show_default=True,
    help="Lines longer than the model was trained for.",
)
@translator_options
@click.option("--int8", is_flag=True, help="Short for --compute-type int8.")
@click.option(
    "--buffer",
    type=click.IntRange(1),
    help="Lines read before they are translated [default: 16 batches; 1 when typing into a terminal].",
)
@click.option("--allow-unsafe-pickle", is_flag=True, help="Let --checkpoint run code when it is loaded.")
@click.option("--quiet", is_flag=True, help="No progress on a terminal.")
def translate(
    model: Path | None,
    direction: str | None,
    engine: str,
    checkpoint: Path | None,
    mask: Path | None,
    vocabulary: Path | None,
    inputs: tuple[Path, ...],
    input_format: str,
    outputs: tuple[Path, ...],
    beam: int,
    length_penalty: float,
    max_length: int,
    batch_size: int,
    nbest: int,
    as_json: bool,
    too_long: str,
    threads: int,
    compute_type: str,
    int8: bool,
    device: str,
    buffer: int | None,
    cache: Path | None,
    allow_unsafe_pickle: bool,
    quiet: bool,
) -> None:
    """Translate text: a line in, a line out, in order; blank lines stay blank.

    An --output file appears when it is complete. On standard output whole lines are written as they
    are done.
    """
    if outputs and len(outputs) != max(len(inputs), 1):
        raise click.UsageError(f"{len(inputs)} --input and {len(outputs)} --output: give one for each")
    options = SearchOptions(beam, length_penalty, max_length, batch_size, nbest)
    if engine == "ctranslate2":
        if model is None or checkpoint is not None or mask is not None:
            raise click.UsageError(
                "--engine ctranslate2 takes --model (export makes it), no --checkpoint or --mask"
            )
        translator = Translator.load(
            model,
            threads=threads,
            compute_type="int8" if int8 else compute_type,
            device=device,
            input_format=cast(InputFormat, input_format),
            cache=cache,
        )
    else:
        if checkpoint is None or vocabulary is None or model is not None:
            raise click.UsageError("--engine fairseq takes --checkpoint, --vocabulary and (if masked) --mask")
        if int8 or compute_type != "default":
            raise click.UsageError("--engine fairseq computes in float32 only")
        from neuron_specialization.translation.fairseq_engine import open_checkpoint

        translator = open_checkpoint(
            checkpoint,
            vocabulary,
            mask=mask,
            threads=threads,
            device=device,
            unsafe=allow_unsafe_pickle,
            input_format=cast(InputFormat, input_format),
        )
    if direction is None:
        if len(translator.directions) != 1:
            raise click.UsageError("--direction is needed: the model has several")
        direction = str(translator.directions[0])
    # a wrong direction or a damaged model is told before any input is awaited
    translator.open(direction)

    style: Literal["text", "json", "nbest"] = "json" if as_json else "nbest" if nbest > 1 else "text"
    sources: list[Path | None] = list(inputs) or [None]
    targets: list[Path | None] = list(outputs) or [None] * len(sources)
    for source, target in zip(sources, targets, strict=True):
        with _source(source) as lines, _target(target) as handle:
            typing = source is None and lines.isatty()
            progress = _Progress(handle, shown=not (quiet or typing))
            stream = translate_stream(
                translator,
                _decoded(lines, source),
                direction,
                options,
                too_long=cast(TooLong, too_long),
                buffer=buffer or (1 if typing else 16 * batch_size),
                progress=progress.show,
            )
            try:
                write_translations(stream, handle, style=style)
            except TranslationError as error:
                where = ", ".join(str(part) for part in (source, error.where) if part)
                raise TranslationError(
                    error.what, where=where or None, cause=error.cause, hint=error.hint
                ) from None
            finally:
                progress.close()


@contextmanager
def _source(path: Path | None) -> Iterator[BinaryIO]:
    if path is None:
        if sys.stdin is None:  # started with <&-
            raise CorpusError("standard input is closed", hint="give the text: < FILE, or --input FILE")
        yield sys.stdin.buffer
        return
    try:
        handle = path.open("rb")
    except OSError as error:
        raise CorpusError(f"cannot read the text to translate: {error.strerror}", where=path) from None
    with handle:
        yield handle


@contextmanager
def _target(path: Path | None) -> Iterator[IO[str]]:
    if path is None:
        if sys.stdout is None:  # started with >&-
            raise TranslationError("standard output is closed", hint="write to a file: --output FILE")
        # UTF-8 whatever the locale; text is flushed in whole lines, also when interrupted
        handle = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8", newline="\n")
        try:
            yield handle
        finally:
            handle.detach().flush()
        return
    if path.exists() and not path.is_file():  # a pipe or a device: nothing takes its place
        with path.open("w", encoding="utf-8", newline="\n") as file:
            yield file
        return
    # what a link leads to is written, and the link stays
    with atomic_text(os.path.realpath(path)) as file:
        yield file


def _decoded(lines: BinaryIO, path: Path | None) -> Iterator[str]:
    """Lines end at a line feed only: U+2028 and its like stand inside a segment."""
    for number, line in enumerate(lines, 1):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise CorpusError(
                f"not UTF-8: {error.reason}",
                where=f"{path or 'standard input'}, line {number}",
                hint="convert it, e.g. with iconv",
            ) from None


class _Progress:
    """Lines done and lines a second, on one line of the terminal; nothing elsewhere.

    After each buffer of lines it also passes on what is written, for whoever reads our output.
    """

    def __init__(self, output: IO[str], *, shown: bool) -> None:
        self._output = output
        self._shown = shown and sys.stderr is not None and sys.stderr.isatty() and not os.environ.get("CI")
        self._start = time.monotonic()

    def show(self, count: int) -> None:
        self._output.flush()
        if self._shown:
            speed = count / max(time.monotonic() - self._start, 1e-9)
            click.echo(f"\r{count:,} lines, {speed:,.0f} lines/s ", err=True, nl=False)

    def close(self) -> None:
        if self._shown:
            click.echo(err=True)
