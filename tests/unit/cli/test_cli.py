"""The command line: every command loads, explains itself, and fails as it should."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from neuron_specialization import __version__
from neuron_specialization.cli import COMMANDS, cli, main
from neuron_specialization.cli.options import direction_list, name_list
from neuron_specialization.errors import NeuronSpecializationError, first_few, first_line
from tests.conftest import REPOSITORY


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, as a rule does."""
    command = [sys.executable, "-m", "neuron_specialization", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_loads_and_explains_itself(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    for part in (command, *(command.commands.values() if isinstance(command, click.Group) else ())):
        assert part.help and part.help.strip().splitlines()[0].endswith((".", ":"))
        for option in part.params:
            if isinstance(option, click.Option):
                # choices or a default may say enough
                shown = option.help or option.show_default or isinstance(option.type, click.Choice)
                assert shown, option.opts


LISTS = {
    *("activations --langs", "activations --directions", "masks --directions", "overlap --directions"),
    *("compose-masks --directions", "pair-by-pivot --directions", "export --directions"),
    *("import-activations --directions", "import-masks --directions", "export-masks --directions"),
    *("testset --splits", "testset --directions", "import-checkpoint --languages", "comet --directions"),
    *("take-over-data-bin --languages", "take-over-data-bin --pairs", "take-over-data-bin --splits"),
    *("score --metrics", "compare --metrics", "perplexity --runs", "figures --systems"),
    *("tables --systems", "tables --testsets", "tables --controls", "tables --released"),
}


def test_lists_are_read_alike_by_all_commands() -> None:
    found = {}
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        for option in command.params:
            if option.callback in (name_list, direction_list):
                found[f"{name} {option.opts[0]}"] = option
    assert set(found) == LISTS
    context = click.Context(cli)
    for option in found.values():
        read = option.process_value(context, "de-en, en-de,")
        assert read == ["de-en", "en-de"]
        for wrong, message in (("de-en, de-en", "de-en is listed twice"), (" , ", "lists nothing")):
            with pytest.raises(click.BadParameter, match=message):
                option.process_value(context, wrong)


def test_no_list_is_read_in_another_way() -> None:
    folder = REPOSITORY / "src/neuron_specialization/cli"
    reading = [file.name for file in folder.glob("*.py") if 'split(",")' in file.read_text(encoding="utf-8")]
    assert reading == ["options.py"]


def test_help_lists_all_commands() -> None:
    shown = run("--help")
    assert shown.returncode == 0
    assert all(f"\n  {name} " in shown.stdout or f"\n  {name}\n" in shown.stdout for name in COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert __version__ in capsys.readouterr().out


def test_a_misspelt_command_names_the_nearest() -> None:
    refused = run("scoer")
    assert refused.returncode == 2
    assert "Did you mean 'score'?" in refused.stderr


def test_an_explained_error_has_status_1_and_no_traceback(tmp_path: Path) -> None:
    arguments = ("score", "--direction", "de-en", "--hypothesis", "none", "--reference", "none")
    failed = run(*arguments)
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: ")
    assert "Traceback" not in failed.stderr
    assert "Traceback" in run(*arguments, NEURON_SPECIALIZATION_TRACEBACK="1").stderr


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, ("No space left on device", "disk is full", "make room")),
        (errno.EROFS, ("Read-only file system", "read-only", "make it writable")),
        (errno.EIO, ("Input/output error",)),
    ],
)
def test_what_the_system_refuses_is_explained(
    number: int, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "results/a.json")

    monkeypatch.setattr(cli, "main", refused)
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 1
    text = capsys.readouterr().err
    assert all(word in text for word in (*words, "error: ", "where: results/a.json"))


def test_wrong_usage_has_status_2() -> None:
    assert run("train").returncode == 2
    assert run("fetch", "homeassistant", "--nonsense").returncode == 2


def test_an_error_says_what_where_why_and_what_next() -> None:
    error = NeuronSpecializationError("no such file", where="a.txt", cause="a typo", hint="make env")
    assert str(error) == "no such file\n  where: a.txt\n  likely cause: a typo\n  next: make env"


def test_of_many_names_a_message_has_the_first() -> None:
    names = [f"n{number}" for number in range(10)]
    assert first_few(names[:8]) == "n0, n1, n2, n3, n4, n5, n6, n7"
    assert first_few(names) == "n0, n1, n2, n3, n4, n5, n6, n7 and 2 more"
    assert first_few(names[:2], 1) == "n0 and 1 more"


def test_of_a_librarys_error_a_message_has_the_first_line() -> None:
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(EOFError()) == "EOFError"


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m neuron_specialization --help | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("command", "unneeded"),
    [
        (["score", "--help"], ["torch", "fairseq", "matplotlib", "pandas", "pydantic"]),
        (["translate", "--help"], ["torch", "fairseq", "matplotlib", "pandas"]),
        (["fetch", "--help"], ["torch", "fairseq", "matplotlib", "pandas", "gdown"]),
        (["tables", "--help"], ["torch", "fairseq", "matplotlib"]),
        (["masks", "--help"], ["fairseq", "matplotlib", "pandas"]),
    ],
    ids=lambda value: value[0],
)
def test_a_command_imports_only_what_it_uses(command: list[str], unneeded: list[str]) -> None:
    # dozens of these processes start in a run
    code = (
        f"import sys; from neuron_specialization.cli import main; main({command!r});"
        f"print('LOADED', [name for name in {unneeded!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "LOADED []", done.stdout[-300:] + done.stderr[-300:]
