"""The service: a real one on a free port under a real client, its limits, and the page in a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from click.testing import CliRunner

from neuron_specialization import Translator
from neuron_specialization.cli import cli
from neuron_specialization.errors import TranslationError
from neuron_specialization.export.bundle import write_bundle
from neuron_specialization.export.ctranslate2_export import export_system
from neuron_specialization.translation.translator import Hypothesis
from tests.browser import Browser
from tests.fakes.models import SMALL, random_masks, write_mask_folder, write_random_model

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")

LANGUAGES = ["en", "de", "ru"]
DIRECTIONS = ["en-de", "de-en", "ru-en"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, trained_vocabulary: Path) -> Path:
    folder = tmp_path_factory.mktemp("serve")
    model = write_random_model(folder / "dense.pt", trained_vocabulary, LANGUAGES, DIRECTIONS)
    masks = write_mask_folder(folder / "masks", random_masks(SMALL, DIRECTIONS))
    return write_bundle(model, trained_vocabulary, folder / "bundle", masks=masks, system="ns")


def start(bundle: Path, *options: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "neuron_specialization", "serve", "--model", str(bundle)),
            *("--port", "0", "--cache", str(bundle.parent / "cache"), *options),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://\S+", line)
    assert found, line + process.stdout.read()
    return process, found[0]


@pytest.fixture(scope="module")
def service(bundle: Path) -> Iterator[str]:
    process, address = start(bundle, "--max-body", "20000", "--max-lines", "40", "--max-work", "10000")
    yield address
    process.terminate()
    assert process.wait(30) == 0, "a stop that was asked for is no failure"


# ---- a real service, a real client ----


def test_translations_are_the_translators(service: str, bundle: Path) -> None:
    translator = Translator.load(bundle, cache=bundle.parent / "cache")
    lines = ["Turn on the light", "", "the battery"]
    for direction in DIRECTIONS:
        for text in (lines, "\n".join(lines), "\r\n".join(lines), "\r".join(lines)):
            request = {"direction": direction, "text": text, "nbest": 2}
            answer = httpx.post(f"{service}/translate", json=request, timeout=60)
            assert answer.status_code == 200, answer.text
            found = answer.json()["translations"]
            assert [one["translation"] for one in found] == translator.translate(lines, direction)
            assert [one["source"] for one in found] == lines
            assert [len(one["hypotheses"]) for one in found] == [2, 1, 2]


def test_directions_tell_the_neurons_in_use(service: str, bundle: Path) -> None:
    answer = httpx.get(f"{service}/directions").json()
    facts = json.loads((bundle / "bundle.json").read_text())
    assert answer["model"] == "ns"
    assert [one["direction"] for one in answer["directions"]] == facts["directions"]
    for one in answer["directions"]:
        kept = facts["models"][one["direction"]]["neurons"]
        assert {layer["layer"]: layer["kept"] for layer in one["layers"]} == kept
        assert one["share"] == pytest.approx(sum(kept.values()) / (3 * 24), abs=1e-4)


@pytest.mark.parametrize(
    ("request_", "status", "code", "told"),
    [
        ({"direction": "de-ru", "text": "x"}, 422, "unknown_direction", DIRECTIONS[0]),
        ({"direction": "de-en"}, 422, "invalid_request", "text"),
        ({"direction": "de-en", "text": "x", "bean": 4}, 422, "invalid_request", "bean"),
        ({"direction": "de-en", "text": "x", "beam": 0}, 422, "invalid_request", "beam"),
        ({"direction": "de-en", "text": "x", "beam": 1000}, 422, "beam_too_large", "16"),
        ({"direction": "de-en", "text": "x", "nbest": 9}, 422, "invalid_request", "beam holds 5"),
        ({"direction": "de-en", "text": ["a\nb"]}, 422, "line_break", "line break"),
        ({"direction": "de-en", "text": "the " * 99, "refuse_long": True}, 422, "line_too_long", "line 1"),
        ({"direction": "de-en", "text": ["x"] * 41}, 413, "too_many_lines", "40"),
        ({"direction": "de-en", "text": "x" * 20000}, 413, "too_large", "20,000"),
        ({"direction": "de-en", "text": "light " * 3000, "beam": 16}, 413, "too_much_work", " 625 at a beam"),
    ],
)
def test_what_is_refused(service: str, request_: dict[str, Any], status: int, code: str, told: str) -> None:
    answer = httpx.post(f"{service}/translate", json=request_, timeout=60)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert told in answer.text


@pytest.mark.parametrize(
    ("body", "code", "told"),
    [
        (r'{"direction": "de-en", "text": "a\n\ud83d light"}', "no_character", "line 2"),
        (r'{"direction": "de-en", "text": ["the", "\ud83d"]}', "no_character", "line 2"),
        (r'{"direction": "\ud83d", "text": "the light"}', "unknown_direction", "de-en"),
        (r'{"direction": "de-en", "text": "the light", "\ud83d": 1}', "invalid_request", "string"),
    ],
)
def test_half_a_character_is_refused(service: str, body: str, code: str, told: str) -> None:
    answer = httpx.post(f"{service}/translate", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["code"] == code
    assert told in answer.text


def test_whole_characters_are_not(service: str) -> None:
    body = r'{"direction": "de-en", "text": "the \ud83d\ude00 light"}'
    answer = httpx.post(f"{service}/translate", content=body, headers={"Content-Type": "application/json"})
    assert answer.json()["translations"][0]["source"] == "the \U0001f600 light"


def test_what_is_not_json_or_not_there(service: str) -> None:
    answer = httpx.post(f"{service}/translate", content=b"{no", headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")
    for method, path, status in (("GET", "/nothing", 404), ("GET", "/translate", 405)):
        answer = httpx.request(method, f"{service}{path}")
        assert answer.status_code == status
        assert answer.json()["error"]["message"]

    def endless() -> Iterator[bytes]:
        for _ in range(50):
            yield b"x" * 1000

    answer = httpx.post(f"{service}/translate", content=endless())  # says nothing of its length
    assert answer.status_code == 413


def test_many_at_once_and_none_lost(service: str, bundle: Path) -> None:
    expected = Translator.load(bundle, cache=bundle.parent / "cache").translate(["the light"], "de-en")
    found: list[Any] = []

    def ask() -> None:
        with httpx.Client(base_url=service, timeout=60) as client:
            for _ in range(5):
                answer = client.post("/translate", json={"direction": "de-en", "text": ["the light"]})
                found.append([one["translation"] for one in answer.json()["translations"]])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 40


def test_a_stop_finishes_what_was_begun(bundle: Path) -> None:
    process, address = start(bundle)
    lines = ["Turn on the light of the door"] * 100
    answers: list[Any] = []
    asking = threading.Thread(
        target=lambda: answers.append(
            httpx.post(
                f"{address}/translate", json={"direction": "de-en", "text": lines, "beam": 16}, timeout=120
            )
        )
    )
    asking.start()
    while httpx.get(f"{address}/health").json()["active"] == 0 and not answers:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    asking.join()
    assert process.wait(60) == 0
    assert len(answers[0].json()["translations"]) == 100
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/health")


LONG = {"direction": "de-en", "text": ["Turn on the light of the door"] * 3000, "beam": 16}
# so much that it would take minutes
MUCH = ["--max-lines", "100000", "--max-body", "1000000", "--max-work", "100000000", "--threads", "1"]


def test_clients_that_go_away_hold_up_nobody(bundle: Path) -> None:
    process, address = start(bundle, *MUCH)
    host, _, port = address.removeprefix("http://").partition(":")
    body = json.dumps(LONG).encode()
    head = f"POST /translate HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    for _ in range(3):  # one is translated, the others wait
        with socket.create_connection((host, int(port))) as client:
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            wait_until(lambda: sum(health(address)) > 0)
    asked = time.monotonic()
    answer = httpx.post(f"{address}/translate", json={"direction": "de-en", "text": "light"}, timeout=20)
    assert answer.status_code == 200
    assert time.monotonic() - asked < 10
    wait_until(lambda: health(address) == (0, 0))
    process.terminate()
    assert process.wait(10) == 0


def health(address: str) -> tuple[int, int]:
    answer = httpx.get(f"{address}/health").json()
    return answer["active"], answer["waiting"]


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_stop_waits_as_long_as_it_was_told(bundle: Path) -> None:
    process, address = start(bundle, *MUCH, "--stop-seconds", "1")
    answers: list[Any] = []

    def ask() -> None:
        answers.append(httpx.post(f"{address}/translate", json=LONG, timeout=60))

    asking = [threading.Thread(target=ask) for _ in range(2)]  # the second waits for the first
    for one in asking:
        one.start()
    wait_until(lambda: health(address) == (1, 1))
    process.send_signal(signal.SIGTERM)
    told = time.monotonic()
    for one in asking:
        one.join()
    assert 1 <= time.monotonic() - told < 10
    assert [one.status_code for one in answers] == [503, 503]
    assert {one.json()["error"]["code"] for one in answers} == {"stopping"}
    assert process.wait(10) == 0
    assert time.monotonic() - told < 15
    assert process.stdout is not None and process.stdout.read() == "", "nothing that looks like a failure"


def test_a_stop_before_it_has_begun(bundle: Path) -> None:
    for _ in range(5):
        process, _ = start(bundle)
        process.terminate()  # while it starts to listen
        assert process.wait(20) == 0


def test_it_serves_without_standard_output(bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "neuron_specialization",
        "serve",
        "--model",
        str(bundle),
        "--port",
        str(port),
    ]
    process = subprocess.Popen(
        [*command, "--cache", str(bundle.parent / "cache")], preexec_fn=lambda: os.close(1)
    )

    def answers() -> bool:
        assert process.poll() is None
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
        except httpx.ConnectError:
            return False

    wait_until(answers)
    process.terminate()
    assert process.wait(10) == 0


def test_what_cannot_translate_is_not_served(
    bundle: Path, trained_vocabulary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(model: Path, *options: str) -> str:
        command = [
            "serve",
            "--model",
            str(model),
            "--port",
            "0",
            "--cache",
            str(tmp_path / "cache"),
            *options,
        ]
        with pytest.raises(TranslationError) as error:
            CliRunner().invoke(cli, command, catch_exceptions=False)
        return str(error.value)

    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)  # else a failure would serve for ever
    assert "does not compute in float16" in refused(bundle, "--compute-type", "float16")
    damaged = tmp_path / "damaged"
    shutil.copytree(bundle, damaged)
    data = (damaged / "weights.safetensors").read_bytes()
    (damaged / "weights.safetensors").write_bytes(data[:-1] + b"x")
    # not from a model made of it before
    assert "weights.safetensors is not the file" in refused(damaged, "--cache", str(tmp_path / "none"))
    checkpoint = bundle.parent / "dense.pt"
    for name, write in (("bundle", write_bundle), ("models", export_system)):
        write(checkpoint, trained_vocabulary, tmp_path / name, input_format="pieces")
        assert "cannot segment it" in refused(tmp_path / name)


def test_a_port_that_is_taken(service: str, bundle: Path) -> None:
    port = service.rpartition(":")[2]
    with pytest.raises(TranslationError, match=r"cannot listen(.|\n)*choose another --port"):
        CliRunner().invoke(cli, ["serve", "--model", str(bundle), "--port", port], catch_exceptions=False)


# ---- limits ----


class Slow(Translator):
    """Translates when it is told to."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def hypotheses(self, lines: Any, *_: Any, **__: Any) -> list[list[Hypothesis]]:
        assert self.go.wait(30)
        return [[Hypothesis(line.upper(), -1.0)] for line in lines]


@pytest.mark.parametrize(
    ("limits", "asked", "statuses", "code"),
    [
        ({"concurrency": 1, "queue": 2}, 5, [200] * 3 + [503] * 2, "busy"),
        ({"concurrency": 1, "queue": 9, "per_client": 4}, 6, [200] * 4 + [429] * 2, "too_many_requests"),
        ({"concurrency": 1, "keep_waiting": 0.1}, 2, [200, 503], "busy"),
    ],
)
def test_more_than_it_takes_on(limits: dict[str, Any], asked: int, statuses: list[int], code: str) -> None:
    from neuron_specialization.serve.app import create_app
    from neuron_specialization.serve.limits import Limits

    async def run() -> list[Any]:
        translator = Slow()
        app = create_app(translator, {"de-en": {}}, name="slow", limits=Limits(**limits))
        answers: list[Any] = []
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:

            async def ask() -> None:
                answers.append(await client.post("/translate", json={"direction": "de-en", "text": "a"}))

            async with anyio.create_task_group() as group:
                for _ in range(asked):
                    group.start_soon(ask)
                with anyio.fail_after(20):
                    while len(answers) < statuses.count(503) + statuses.count(429):
                        await anyio.sleep(0.01)
                health = (await client.get("/health")).json()
                assert health["active"] == 1, "it still tells how it is"
                translator.go.set()
            health = (await client.get("/health")).json()
            assert (health["active"], health["waiting"]) == (0, 0)
        return answers

    answers = anyio.run(run)
    assert sorted(one.status_code for one in answers) == statuses
    for one in answers:
        if one.status_code == 200:
            assert one.json()["translations"][0]["translation"] == "A"
        else:
            assert one.json()["error"]["code"] == code
            assert one.headers["Retry-After"]


# ---- the page ----


def test_pages_load_nothing_from_elsewhere(service: str) -> None:
    for path in ("/", "/page.css", "/page.js", "/docs"):
        answer = httpx.get(f"{service}{path}")
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        text = answer.text.replace("http://www.w3.org/2000/svg", "")
        assert "//" not in re.sub(r"^\s*//.*|;\s*//.*", "", text, flags=re.M), path
    docs = httpx.get(f"{service}/docs").text
    for text in ("POST /translate", "refuse_long", "GET /directions", "429"):
        assert text in docs
    assert httpx.get(f"{service}/openapi.json").json()["paths"].keys() == {
        "/translate",
        "/directions",
        "/health",
    }


def test_the_page_by_keyboard(service: str, bundle: Path) -> None:
    with Browser() as page:
        page.open(f"{service}/#de-en", width=390, height=800)
        page.wait("document.querySelectorAll('#neurons tbody tr').length === 3")
        names = []
        for _ in range(6):
            page.press("Tab", 9)
            names.append(page.run("document.activeElement.id || document.activeElement.tagName"))
        assert names == ["source", "swap", "target", "text", "output", "submit"]
        page.run("document.getElementById('text').focus()")
        page.send("Input.insertText", text="the light")
        page.press("Enter", 13, modifiers=2)
        found = page.wait("document.getElementById('output').textContent")
        (expected,) = Translator.load(bundle, cache=bundle.parent / "cache").translate(["the light"], "de-en")
        assert found == expected
        kept = json.loads((bundle / "bundle.json").read_text())["models"]["de-en"]["neurons"]
        rows = page.run("[...document.querySelectorAll('#neurons tbody tr')].map(row => row.innerText)")
        for row, count in zip(rows, kept.values(), strict=True):
            assert f"{count} of 24" in row
        assert page.run("document.documentElement.scrollWidth") == 390, "nothing beside the screen"
        # another direction: its own neurons, and no translation of the other
        page.run("document.getElementById('swap').click()")
        assert page.run("location.hash") == "#en-de"
        assert page.run("document.getElementById('output').textContent") == ""
        assert page.asked()
        assert all(url.startswith(service) for url in page.asked())
        assert page.complaints() == [], "no error, no violated policy"
