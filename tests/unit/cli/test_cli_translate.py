"""The translate and export commands as a user types them, on a small exported model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from neuron_specialization.cli import cli
from neuron_specialization.errors import CorpusError, MaskError, TranslationError
from neuron_specialization.translation.translator import Translator
from tests.fakes.models import SMALL, random_masks, write_mask_folder, write_random_model

DIRECTIONS = ["en-de", "de-en"]
TEXT = "Turn on the light\n\nOpen the door\r\n   \nthe battery\n"
SEARCH = ["--max-length", "12", "--threads", "1"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, trained_vocabulary: Path) -> Path:
    """A specialised system, exported by the command."""
    folder = tmp_path_factory.mktemp("models")
    checkpoint = write_random_model(folder / "m.pt", trained_vocabulary, ["en", "de", "ru"], DIRECTIONS)
    masks = write_mask_folder(folder / "masks", random_masks(SMALL, DIRECTIONS))
    result = run(
        "export",
        *("--checkpoint", checkpoint, "--masks", masks, "--vocabulary", trained_vocabulary),
        *("--system", "ns", "--output", folder / "ns"),
    )
    assert result.output.count("exported") == 2
    return folder / "ns"


def run(*arguments: object, text: str | bytes | None = None) -> Result:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments], input=text)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_line_in_line_out(models: Path) -> None:
    result = run("translate", "--model", models, "--direction", "de-en", *SEARCH, text=TEXT)
    lines = result.stdout.split("\n")
    assert lines[-1] == ""
    assert len(lines) == 6
    assert (lines[1], lines[3]) == ("", "")
    expected = Translator.load(models).translate(
        ["Turn on the light", "Open the door"], "de-en", max_length=12
    )
    assert [lines[0], lines[2]] == expected


def test_files_equal_the_stream_whatever_the_buffer(models: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "b.txt").write_text("door\nlight")  # no line end at the end
    common = ["translate", "--model", models / "en-de", *SEARCH]
    run(
        *common,
        *("--input", tmp_path / "a.txt", "--output", tmp_path / "a.out"),
        *("--input", tmp_path / "b.txt", "--output", tmp_path / "b.out"),
    )
    assert (tmp_path / "a.out").read_text() == run(*common, text=TEXT).stdout
    assert (tmp_path / "a.out").read_text() == run(*common, "--buffer", 1, text=TEXT).stdout
    assert (tmp_path / "b.out").read_text().count("\n") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.out", "a.txt", "b.out", "b.txt"]


def test_json_and_nbest(models: Path) -> None:
    common = ["translate", "--model", models, "--direction", "en-de", *SEARCH, "--nbest", "3"]
    objects = [json.loads(line) for line in run(*common, "--json", text=TEXT).stdout.splitlines()]
    assert [one["source"] for one in objects] == [
        "Turn on the light",
        "",
        "Open the door",
        "   ",
        "the battery",
    ]
    scores = [one["score"] for one in objects[0]["hypotheses"]]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert objects[0]["translation"] == objects[0]["hypotheses"][0]["text"]
    table = [line.split(" ||| ") for line in run(*common, text=TEXT).stdout.splitlines()]
    assert [row[0] for row in table].count("0") == 3
    assert [row[1] for row in table if row[0] == "0"] == [one["text"] for one in objects[0]["hypotheses"]]


def test_a_failed_translation_leaves_no_file(models: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"door\n" * 100 + b"caf\xe9\n")
    common = ["translate", "--model", models, "--direction", "en-de", *SEARCH, "--buffer", "10"]
    with pytest.raises(CorpusError, match=r"not UTF-8(.|\n)*bad\.txt, line 101"):
        run(*common, "--input", bad, "--output", tmp_path / "out.txt")
    (tmp_path / "long.txt").write_text("door\n" + "door " * 40 + "\n")
    with pytest.raises(TranslationError, match=r"at most 30(.|\n)*long\.txt, line 2"):
        run(
            *common,
            "--too-long",
            "refuse",
            "--input",
            tmp_path / "long.txt",
            "--output",
            tmp_path / "out.txt",
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.txt", "long.txt"]
    run(*common, "--input", tmp_path / "long.txt", "--output", tmp_path / "out.txt")
    assert (tmp_path / "out.txt").read_text().count("\n") == 2, "split by default"


def test_wrong_use(models: Path, tmp_path: Path) -> None:
    for arguments, message in (
        (["--model", models], "--direction is needed"),
        (["--direction", "en-de"], "takes --model"),
        (["--model", models, "--checkpoint", "x.pt"], "takes --model"),
        (["--engine", "fairseq", "--model", models], "takes --checkpoint"),
        (["--model", models, "--input", "a", "--input", "b", "--output", "c"], "give one for each"),
    ):
        result = run("translate", *arguments, text="")
        assert result.exit_code == 2
        assert message in result.stderr
    with pytest.raises(TranslationError, match=r"does not translate de-fr(.|\n)*de-en, en-de"):
        run("translate", "--model", models, "--direction", "de-fr", text="")
    with pytest.raises(CorpusError, match="cannot read the text"):
        run("translate", "--model", models, "--direction", "en-de", "--input", tmp_path / "none.txt")
    with pytest.raises(TranslationError, match="beam"):
        run("translate", "--model", models, "--direction", "en-de", "--beam", "2", "--nbest", "3", text="a")


def test_int8_at_run_time(models: Path) -> None:
    result = run("translate", "--model", models, "--direction", "en-de", "--int8", *SEARCH, text=TEXT)
    assert result.stdout.count("\n") == 5


def test_the_fairseq_engine_says_the_same(models: Path, trained_vocabulary: Path, tmp_path: Path) -> None:
    folder = models.parent
    (tmp_path / "in.txt").write_text(TEXT)
    common = ["--direction", "en-de", *SEARCH, "--input", tmp_path / "in.txt", "--json"]
    checkpoint = ["--engine", "fairseq", "--checkpoint", folder / "m.pt", "--vocabulary", trained_vocabulary]
    found = run("translate", *common, "--model", models).stdout.splitlines()
    mask = ["--mask", folder / "masks" / "en-de.safetensors"]
    expected = run("translate", *common, *checkpoint, *mask).stdout.splitlines()
    for mine, other in zip(map(json.loads, found), map(json.loads, expected), strict=True):
        assert (mine["source"], mine["translation"]) == (other["source"], other["translation"])
        assert mine["score"] == pytest.approx(other["score"], abs=1e-4)
    unmasked = run("translate", *common, *checkpoint).stdout.splitlines()
    assert unmasked != expected
    with pytest.raises(MaskError, match="does not fit the model"):
        other = write_mask_folder(
            tmp_path / "masks", random_masks({**SMALL, "encoder_layers": 1}, DIRECTIONS)
        )
        run("translate", *common, *checkpoint, "--mask", other / "en-de.safetensors")


def test_many_threads_share_a_model(models: Path) -> None:
    translator = Translator.load(models, threads=2)
    lines = [f"{word} {number}" for number in range(10) for word in ("door", "light", "window")]
    expected = translator.translate(lines, "en-de", max_length=12)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda line: translator.translate([line], "en-de", max_length=12)[0], lines))
    assert found == expected


def start(*arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "neuron_specialization", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C"},  # text is UTF-8 whatever the locale
        # tests that a shell started in the background ignore SIGINT, and so would what they start
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_an_interrupt_leaves_complete_lines(models: Path) -> None:
    process = start("translate", "--model", models, "--direction", "en-de", *SEARCH, "--buffer", 2)
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("door\nGerät öffnen\nlight\n".encode())
    process.stdin.flush()
    first = [process.stdout.readline() for _ in range(2)]  # a full buffer is answered while input is open
    assert all(line.endswith(b"\n") for line in first)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=20)
    assert rest == b""
    assert process.returncode == 130
    assert errors.strip() == b"interrupted"


def test_start_is_light(models: Path) -> None:
    script = (
        "import sys; from neuron_specialization.cli import cli\n"
        f"cli.main(['translate', '--model', {str(models)!r}, '--direction', 'en-de', '--threads', '1'],"
        " standalone_mode=False)\n"
        "heavy = {'torch', 'fairseq', 'pandas', 'matplotlib', 'pydantic', 'snakemake'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], input=b"door\n", capture_output=True, check=True)


def shell(command: str, models: Path, folder: Path) -> tuple[int, str, str]:
    """Run a command line; TRANSLATE in it is the command without input and output."""
    program = f"{sys.executable} -m neuron_specialization translate --model {models} --direction en-de"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command.replace("TRANSLATE", f"{program} {' '.join(SEARCH)}")],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_pipe_is_written_to_and_a_link_followed(models: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text(TEXT)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link.txt").symlink_to("real.txt")
    (tmp_path / "real.txt").write_text("old")
    command = "timeout 20 cat pipe > read.txt & TRANSLATE --input in.txt --output pipe && wait"
    assert shell(command, models, tmp_path)[0] == 0
    assert (tmp_path / "pipe").is_fifo()
    assert shell("TRANSLATE --input in.txt --output link.txt", models, tmp_path)[0] == 0
    assert (tmp_path / "link.txt").is_symlink()
    expected = run("translate", "--model", models, "--direction", "en-de", *SEARCH, text=TEXT).stdout
    assert (tmp_path / "read.txt").read_text() == (tmp_path / "real.txt").read_text() == expected


def test_closed_streams_are_told(models: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text(TEXT)
    status, _, errors = shell("TRANSLATE <&-", models, tmp_path)
    assert (status, errors.splitlines()[0]) == (1, "error: standard input is closed")
    status, _, errors = shell("TRANSLATE < in.txt >&-", models, tmp_path)
    assert (status, errors.splitlines()[0]) == (1, "error: standard output is closed")
    status, output, _ = shell("TRANSLATE < in.txt 2>&-", models, tmp_path)
    assert (status, output.count("\n")) == (0, 5)


def test_a_reader_that_has_enough_is_no_failure(models: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("door\nlight\n" * 3000)
    status, output, errors = shell("TRANSLATE --buffer 20 < in.txt | head -1", models, tmp_path)
    assert (status, output.count("\n"), errors) == (0, 1, "")
