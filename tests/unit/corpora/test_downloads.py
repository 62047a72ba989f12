"""Downloads against a real server on the loopback interface that does what bad servers do."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from neuron_specialization.catalogue import CatalogueEntry
from neuron_specialization.corpora import downloads, transfer
from neuron_specialization.corpora.downloads import fetch, fetch_entry, pip_command, source_record
from neuron_specialization.corpora.transfer import Patience
from neuron_specialization.errors import DownloadError
from neuron_specialization.storage.files import read_json

CONTENT = random.Random(7).randbytes(3_000_000)
QUOTA_PAGE = (
    b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>"
    b'<p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.</p>'
)
FAST = Patience(connect=2, read=0.5, attempts=4, first_pause=0.01, longest_pause=0.05)


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT, with ranges; the server's ``script`` may do otherwise, request by request."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers)))
        step = self.server.script.pop(0) if self.server.script else None
        (step or self.server.otherwise)(self)

    def log_message(self, *_: Any) -> None:
        pass

    def answer(
        self,
        body: bytes = CONTENT,
        *,
        status: int = 200,
        length: int | None = -1,
        send: int | None = None,
        ranges: bool = True,
        tag: str | None = '"v1"',
        headers: dict[str, str] | None = None,
    ) -> None:
        """Answer with ``body``, of which only ``send`` bytes go out before the connection is cut."""
        start, wanted = 0, self.headers.get("Range")
        if ranges and wanted and status == 200 and self.headers.get("If-Range") in (None, tag):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            status = 206 if start < len(body) else 416
        self.send_response(status)
        if status == 416:
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if status == 206 and "Content-Range" not in (headers or {}):
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if tag:
            self.send_header("ETag", tag)
        if length is not None:
            self.send_header("Content-Length", str(len(body) - start if length == -1 else length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        part = body[start:] if send is None else body[start : start + send]
        try:
            self.wfile.write(part)
            self.wfile.flush()
        except OSError:
            pass
        if send is not None or length is None or length != -1:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)


Step = Callable[[Handler], None]


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[Step] = []
        self.otherwise: Step = Handler.answer
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def entry(server: Server) -> CatalogueEntry:
    """A pinned file on the server."""
    return CatalogueEntry(
        name="thing",
        version="1",
        kind="http",
        url=f"{server.url}/pub/thing.bin",
        file="thing.bin",
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        bytes=len(CONTENT),
        licence="MIT",
        citation="Somebody, 2020",
    )


class Run:
    """Calls fetch_entry and keeps what it reported."""

    def __init__(self, folder: Path) -> None:
        self.output = folder / "downloads" / "thing.bin"
        self.messages: list[str] = []

    def __call__(self, entry: CatalogueEntry, mirror: str | None = None, patience: Patience = FAST) -> Path:
        return fetch_entry(entry, self.output, mirror=mirror, report=self.messages.append, patience=patience)

    def fails(self, entry: CatalogueEntry, message: str, mirror: str | None = None) -> DownloadError:
        with pytest.raises(DownloadError, match=message) as caught:
            self(entry, mirror)
        assert not self.output.exists() and not source_record(self.output).exists()
        return caught.value

    def leave_part(self, content: bytes) -> Path:
        """Leave the beginning of a file as a download that was cut short does, without its record."""
        part = self.output.with_name(".thing.bin.part")
        part.parent.mkdir(exist_ok=True)
        part.write_bytes(content)
        return part

    @property
    def leftovers(self) -> list[str]:
        return sorted(path.name for path in self.output.parent.iterdir() if not path.name.endswith(".lock"))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def unpinned(entry: CatalogueEntry) -> CatalogueEntry:
    return replace(entry, sha256=None, bytes=None)


def ranges_asked(server: Server) -> list[str | None]:
    return [headers.get("Range") for _, headers in server.requests]


def test_whole_file(server: Server, entry: CatalogueEntry, run: Run) -> None:
    assert run(entry).read_bytes() == CONTENT
    assert run.leftovers == ["thing.bin", "thing.bin.source.json"]
    record = read_json(source_record(run.output))
    assert record["verified"] is True and record["source"] == entry.url and record["sha256"] == entry.sha256
    run(entry)
    assert len(server.requests) == 1, "a file that is there is not fetched again"


def test_changed_file_is_fetched_again(server: Server, entry: CatalogueEntry, run: Run) -> None:
    run(entry).write_bytes(CONTENT[:-1] + b"!")
    assert run(entry).read_bytes() == CONTENT
    assert any("fetching it again" in message for message in run.messages)


def test_dropped_connection_resumes(server: Server, entry: CatalogueEntry, run: Run) -> None:
    server.script = [
        lambda handler: handler.answer(send=10 * transfer.CHUNK),
        lambda handler: handler.answer(send=5 * transfer.CHUNK + 100),
        lambda handler: handler.answer(send=0),
    ]
    assert run(entry).read_bytes() == CONTENT
    # whole chunks are kept
    asked = [f"bytes={chunks * transfer.CHUNK}-" for chunks in (10, 15, 15)]
    assert ranges_asked(server) == [None, *asked]
    assert all(headers["If-Range"] == '"v1"' for _, headers in server.requests[1:])


@pytest.mark.parametrize("pinned", [True, False])
def test_resumes_in_the_next_run(server: Server, entry: CatalogueEntry, run: Run, pinned: bool) -> None:
    entry = entry if pinned else unpinned(entry)
    server.script = [lambda handler: handler.answer(send=16 * transfer.CHUNK)]
    server.otherwise = lambda handler: handler.answer(b"busy", status=503)
    error = run.fails(entry, "attempts in a row brought nothing.*503")
    assert "1.0 MB are kept" in str(error)
    server.otherwise = Handler.answer
    assert run(entry).read_bytes() == CONTENT
    assert server.requests[-1][1]["Range"] == f"bytes={16 * transfer.CHUNK}-"


@pytest.mark.parametrize("pinned", [True, False])
def test_file_that_changed_meanwhile_is_not_spliced(
    server: Server, entry: CatalogueEntry, run: Run, pinned: bool
) -> None:
    new = bytes(reversed(CONTENT))
    server.script = [lambda handler: handler.answer(bytes(3_000_000), send=1_000_000)]
    server.otherwise = lambda handler: handler.answer(new, tag='"v2"')
    entry = replace(entry, sha256=hashlib.sha256(new).hexdigest()) if pinned else unpinned(entry)
    assert run(entry).read_bytes() == new


def test_without_validator_and_checksum_it_starts_over(
    server: Server, entry: CatalogueEntry, run: Run
) -> None:
    server.script = [lambda handler: handler.answer(send=1_000_000, tag=None)]
    server.otherwise = lambda handler: handler.answer(tag=None)
    assert run(unpinned(entry)).read_bytes() == CONTENT
    assert ranges_asked(server) == [None, None]


def test_server_without_ranges(server: Server, entry: CatalogueEntry, run: Run) -> None:
    server.script = [lambda handler: handler.answer(send=2_000_000, ranges=False)]
    server.otherwise = lambda handler: handler.answer(ranges=False)
    assert run(entry).read_bytes() == CONTENT
    assert any("does not continue; starting over" in message for message in run.messages)


def test_server_that_always_drops_ends(server: Server, entry: CatalogueEntry, run: Run) -> None:
    server.otherwise = lambda handler: handler.answer(send=1_000_000, ranges=False)
    run.fails(entry, "4 attempts in a row brought nothing")
    # the first attempt brought something, the other four nothing new
    assert len(server.requests) == FAST.attempts


def test_complete_part_file(server: Server, entry: CatalogueEntry, run: Run) -> None:
    run.output.parent.mkdir()
    (run.output.parent / ".thing.bin.part").write_bytes(CONTENT)
    assert run(entry).read_bytes() == CONTENT
    assert ranges_asked(server) == ["bytes=3000000-"]


def test_wrong_range_is_not_appended(server: Server, entry: CatalogueEntry, run: Run) -> None:
    server.script = [
        lambda handler: handler.answer(send=transfer.CHUNK),
        lambda handler: handler.answer(
            CONTENT[:10], status=206, headers={"Content-Range": f"bytes 0-9/{len(CONTENT)}"}
        ),
    ]
    assert run(entry).read_bytes() == CONTENT
    assert ranges_asked(server) == [None, f"bytes={transfer.CHUNK}-", None]


def test_wrong_checksum(server: Server, entry: CatalogueEntry, run: Run) -> None:
    evil = bytes(len(CONTENT))
    server.otherwise = lambda handler: handler.answer(evil)
    error = run.fails(entry, "wrong checksum")
    assert f"expected: sha256 {entry.sha256}" in str(error)
    assert f"actual:   sha256 {hashlib.sha256(evil).hexdigest()}" in str(error)
    assert run.leftovers == []


def test_wrong_length(server: Server, entry: CatalogueEntry, run: Run) -> None:
    server.otherwise = lambda handler: handler.answer(CONTENT[:100])
    run.fails(entry, "the server has 100 bytes, the catalogue says 3,000,000")
    assert run.leftovers == []


def test_server_states_more_than_it_sends(server: Server, entry: CatalogueEntry, run: Run) -> None:
    server.otherwise = lambda handler: handler.answer(length=len(CONTENT) + 100, ranges=False)
    run.fails(unpinned(entry), "attempts in a row brought nothing")


def test_without_stated_length_too_much_is_cut_off(server: Server, entry: CatalogueEntry, run: Run) -> None:
    server.otherwise = lambda handler: handler.answer(CONTENT * 2, length=None)
    run.fails(entry, "sends more than the 3,000,000 bytes")
    assert run.leftovers == []


def test_without_stated_length_truncation_is_found_by_size(
    server: Server, entry: CatalogueEntry, run: Run
) -> None:
    server.otherwise = lambda handler: handler.answer(CONTENT[:-1], length=None)
    run.fails(entry, "2,999,999 bytes, the catalogue says 3,000,000")


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "application/octet-stream"])
def test_quota_page(server: Server, entry: CatalogueEntry, run: Run, content_type: str) -> None:
    server.otherwise = lambda handler: handler.answer(QUOTA_PAGE, headers={"Content-Type": content_type})
    error = run.fails(unpinned(entry), "quota for this file is exceeded")
    assert "download it by hand from" in str(error) and "save it as thing.bin" in str(error)


def test_any_other_page(server: Server, entry: CatalogueEntry, run: Run) -> None:
    page = b"\xef\xbb\xbf \n<html><head><title>Hotel\n wifi &amp; more</title>"
    server.otherwise = lambda handler: handler.answer(page)
    run.fails(unpinned(entry), "titled 'Hotel wifi & more' instead of the file")
    server.otherwise = lambda handler: handler.answer(page, status=403, headers={"Content-Type": "text/html"})
    run.fails(entry, r"titled 'Hotel wifi & more' \(status 403\)")
    assert len(server.requests) == 2, "what will not change is not tried again"


def test_empty_file(server: Server, entry: CatalogueEntry, run: Run) -> None:
    server.otherwise = lambda handler: handler.answer(b"")
    run.fails(unpinned(entry), "is empty")


def test_slow_server(server: Server, entry: CatalogueEntry, run: Run) -> None:
    server.script = [lambda handler: time.sleep(2)]
    assert run(entry).read_bytes() == CONTENT
    assert any("does not answer in time" in message for message in run.messages)


def test_server_that_stalls_half_way(server: Server, entry: CatalogueEntry, run: Run) -> None:
    def stall(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(CONTENT)))
        handler.send_header("ETag", '"v1"')
        handler.end_headers()
        handler.wfile.write(CONTENT[: 20 * transfer.CHUNK])
        handler.wfile.flush()
        time.sleep(2)

    server.script = [stall]
    assert run(entry).read_bytes() == CONTENT
    assert ranges_asked(server) == [None, f"bytes={20 * transfer.CHUNK}-"]


def test_busy_server_names_its_time(server: Server, entry: CatalogueEntry, run: Run) -> None:
    server.script = [lambda handler: handler.answer(b"", status=429, headers={"Retry-After": "1"})]
    start = time.monotonic()
    # the wait is bounded by five times the longest pause
    run(entry, patience=replace(FAST, longest_pause=0.1))
    assert 0.5 <= time.monotonic() - start < 2
    assert any("429" in message for message in run.messages)


def test_numbers_in_headers_are_decimal_or_none(server: Server, entry: CatalogueEntry, run: Run) -> None:
    # Latin-1 has digits that are no numbers
    server.script = [
        lambda handler: handler.answer(b"", status=429, headers={"Retry-After": "\xb2"}),
        lambda handler: handler.answer(length=None, headers={"Content-Length": "\xb2"}),
    ]
    assert run(entry).read_bytes() == CONTENT


def test_no_server(entry: CatalogueEntry, run: Run) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    error = run.fails(replace(entry, url=f"http://127.0.0.1:{port}/thing.bin"), "no connection")
    assert "are kept" not in str(error) and "by hand" in str(error)


def redirect(target: str) -> Step:
    return lambda handler: handler.answer(b"", status=302, headers={"Location": target})


@pytest.mark.parametrize(
    "target", ["file:///etc/hostname", "ftp://127.0.0.1/x", "gopher://x/", "data:,hello"]
)
def test_redirect_to_another_scheme(server: Server, entry: CatalogueEntry, run: Run, target: str) -> None:
    server.otherwise = redirect(target)
    run.fails(entry, "redirects to [a-z]+: addresses, which is refused")


def test_redirect_to_another_host(server: Server, entry: CatalogueEntry, run: Run) -> None:
    """Followed when a checksum tells what must come; refused when nothing does."""
    server.script = [redirect(f"http://localhost:{server.server_port}/elsewhere")]
    assert run(entry).read_bytes() == CONTENT
    run.output.unlink()
    server.script = [redirect(f"http://localhost:{server.server_port}/elsewhere")]
    with pytest.raises(DownloadError, match="redirects to another host"):
        run(unpinned(entry))
    run.messages.clear()
    server.script = [redirect("/same/host")]
    assert run(unpinned(entry)).read_bytes() == CONTENT


def test_redirect_without_end(server: Server, entry: CatalogueEntry, run: Run) -> None:
    server.otherwise = redirect("/again")
    run.fails(entry, "redirects more than 8 times")


def test_unverified_is_said_and_remembered(server: Server, entry: CatalogueEntry, run: Run) -> None:
    run(unpinned(entry))
    said = next(message for message in run.messages if message.startswith("UNVERIFIED"))
    assert str(entry.sha256) in said and "data/catalogue.tsv" in said
    assert read_json(source_record(run.output))["verified"] is False
    run(unpinned(entry))
    assert len(server.requests) == 1
    # another file of that name is not taken for the one downloaded, and the difference is said
    run.output.write_bytes(b"changed")
    server.otherwise = lambda handler: handler.answer(CONTENT[::-1])
    run(unpinned(entry))
    assert any("another file than the one fetched before" in message for message in run.messages)


def test_disk_space_is_checked_first(
    server: Server, entry: CatalogueEntry, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": transfer.DISK_MARGIN + len(CONTENT) - 1})
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: usage)
    run.fails(entry, "needs 3.0 MB and 70.1 MB are free")
    assert server.requests == []
    # size unknown to the catalogue: the server's word counts
    run.fails(unpinned(entry), "needs 3.0 MB")
    assert run.leftovers == []


# ---- mirrors ----


def test_mirror_folder(server: Server, entry: CatalogueEntry, run: Run, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "thing.bin").write_bytes(CONTENT)
    assert run(entry, str(mirror)).read_bytes() == CONTENT
    assert server.requests == []
    assert read_json(source_record(run.output))["source"] == str(mirror / "thing.bin")
    run.output.unlink()
    assert run(entry, str(mirror / "thing.bin")).read_bytes() == CONTENT


@pytest.mark.parametrize("suffix", ["/mirror", "/mirror/", "/mirror/thing.bin"])
def test_mirror_url(server: Server, entry: CatalogueEntry, run: Run, suffix: str) -> None:
    entry = replace(entry, url="http://127.0.0.1:1/origin")
    assert run(entry, server.url + suffix).read_bytes() == CONTENT
    assert server.requests[0][0] == "/mirror/thing.bin"


def test_mirror_that_lacks_or_damages_the_file(
    server: Server, entry: CatalogueEntry, run: Run, tmp_path: Path
) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    assert run(entry, str(mirror)).read_bytes() == CONTENT
    run.output.unlink()
    (mirror / "thing.bin").write_bytes(bytes(len(CONTENT)))
    assert run(entry, str(mirror)).read_bytes() == CONTENT
    assert any("not from the mirror: thing.bin has the wrong checksum" in message for message in run.messages)
    run.output.unlink()
    server.script = [lambda handler: handler.answer(b"", status=404)]
    assert run(entry, server.url).read_bytes() == CONTENT


OTHER = random.Random(8).randbytes(len(CONTENT))


def unavailable(handler: Handler) -> None:
    handler.answer(b"", status=503)


@pytest.mark.parametrize("tag", ['"v1"', None])
def test_what_a_mirror_began_is_not_continued_at_the_origin(
    server: Server, entry: CatalogueEntry, run: Run, tag: str | None
) -> None:
    server.script = [lambda h: h.answer(OTHER, send=1_000_000, tag=tag), *[unavailable] * FAST.attempts]
    server.otherwise = lambda h: h.answer(tag=tag)
    assert run(entry, mirror=f"{server.url}/mirror").read_bytes() == CONTENT
    asked = [path for path, headers in server.requests if path.startswith("/pub") and "Range" in headers]
    assert asked == []
    assert run.leftovers == ["thing.bin", "thing.bin.source.json"]


def test_a_mirror_out_of_order_costs_nothing_of_what_the_origin_sent(
    server: Server, entry: CatalogueEntry, run: Run
) -> None:
    part = run.leave_part(CONTENT[:1_000_000])
    record = {"url": entry.url, "validator": '"v1"'}
    part.with_name(".thing.bin.part.json").write_text(json.dumps(record))
    server.script = [unavailable] * FAST.attempts
    assert run(entry, mirror=f"{server.url}/mirror").read_bytes() == CONTENT
    assert ranges_asked(server)[-1] == "bytes=1000000-"


def test_a_continued_file_that_is_wrong_is_fetched_once_from_the_start(
    server: Server, entry: CatalogueEntry, run: Run
) -> None:
    run.leave_part(OTHER[:1_000_000])
    assert run(entry).read_bytes() == CONTENT
    assert ranges_asked(server) == ["bytes=1000000-", None]
    run.output.unlink()
    source_record(run.output).unlink()
    # once: a server that has another file is not asked for it again and again
    run.leave_part(OTHER[:1_000_000])
    server.requests.clear()
    server.otherwise = lambda h: h.answer(OTHER)
    run.fails(entry, "wrong checksum")
    assert ranges_asked(server) == ["bytes=1000000-", None]


def test_mirror_and_origin_fail(server: Server, entry: CatalogueEntry, run: Run, tmp_path: Path) -> None:
    server.otherwise = lambda handler: handler.answer(b"", status=404)
    error = run.fails(entry, "no such file", mirror=str(tmp_path))
    assert f"mirror {tmp_path}: no file" in str(error)


def side_by_side(run: Run, entry: CatalogueEntry, count: int) -> None:
    threads = [threading.Thread(target=run, args=(entry,)) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_two_processes_fetch_one_file_once(server: Server, entry: CatalogueEntry, run: Run) -> None:
    server.otherwise = lambda handler: (time.sleep(0.3), handler.answer())[0]
    side_by_side(run, entry, 3)
    assert run.output.read_bytes() == CONTENT
    assert len(server.requests) == 1
    assert any("another process is fetching it" in message for message in run.messages)


def test_another_users_lock_is_waited_for(
    server: Server, entry: CatalogueEntry, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = run.output.with_name(f".{run.output.name}.lock")
    lock.parent.mkdir(exist_ok=True)
    lock.touch()
    opened = os.open

    def as_another_user(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
        if str(path) == str(lock) and flags & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, flags, *arguments, **named)

    monkeypatch.setattr(os, "open", as_another_user)

    def path_opened(path: Path, mode: str = "r", **named: Any) -> Any:
        return open(path, mode, opener=as_another_user, **named)

    monkeypatch.setattr(Path, "open", path_opened)
    server.otherwise = lambda handler: (time.sleep(0.3), handler.answer())[0]
    side_by_side(run, entry, 2)
    assert run.output.read_bytes() == CONTENT and len(server.requests) == 1


# ---- Google Drive: the real gdown, its address led to the local server ----


@pytest.fixture
def drive(server: Server, entry: CatalogueEntry, monkeypatch: pytest.MonkeyPatch) -> CatalogueEntry:
    get = requests.Session.get

    def local(session: requests.Session, url: str, **options: Any) -> requests.Response:
        prefix = "https://drive.google.com"
        assert url.startswith((prefix, server.url))
        return get(session, url.replace(prefix, server.url), **options)

    monkeypatch.setattr(requests.Session, "get", local)
    return replace(entry, kind="gdrive", url="1qHRFNU-helRLpHkr6rspqEZs0eDj-68l")


def drive_file(handler: Handler, **how: Any) -> None:
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Disposition": 'attachment; filename="../../evil.bin"',
    }
    handler.answer(headers=headers, **how)


def test_gdrive(server: Server, drive: CatalogueEntry, run: Run) -> None:
    server.otherwise = drive_file
    assert run(drive).read_bytes() == CONTENT
    assert run.leftovers == ["thing.bin", "thing.bin.source.json"]
    assert server.requests[0][0] == f"/uc?id={drive.url}"


def test_gdrive_resumes(
    server: Server, drive: CatalogueEntry, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "uniform", lambda *_: 0.0)
    server.script = [lambda handler: drive_file(handler, send=1 << 20)]
    server.otherwise = drive_file
    assert run(drive).read_bytes() == CONTENT
    assert ranges_asked(server) == [None, "bytes=1048576-"]


def test_gdrive_resumes_in_the_next_run(
    server: Server, drive: CatalogueEntry, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience = replace(FAST, attempts=0)
    server.script = [lambda handler: drive_file(handler, send=1 << 20)]
    server.otherwise = drive_file
    with pytest.raises(DownloadError, match="incomplete"):
        run(drive, patience=patience)
    assert not run.output.exists()
    assert run(drive, patience=patience).read_bytes() == CONTENT
    assert "bytes=1048576-" in ranges_asked(server)


def test_gdrive_file_that_changed_is_not_spliced(server: Server, drive: CatalogueEntry, run: Run) -> None:
    drive = unpinned(drive)
    patience = replace(FAST, attempts=0)
    server.script = [lambda handler: drive_file(handler, send=1 << 20)]
    with pytest.raises(DownloadError, match="incomplete"):
        run(drive, patience=patience)
    new = CONTENT[::-1] + b"more"
    server.otherwise = lambda handler: drive_file(handler, body=new, tag='"v2"')
    assert run(drive, patience=patience).read_bytes() == new
    assert any("starting over" in message for message in run.messages)


def test_gdrive_quota(server: Server, drive: CatalogueEntry, run: Run) -> None:
    server.otherwise = lambda handler: handler.answer(QUOTA_PAGE, headers={"Content-Type": "text/html"})
    error = run.fails(drive, "quota for this file is exceeded")
    assert f"by hand from https://drive.google.com/file/d/{drive.url}/view" in str(error)
    assert "mirror:" in str(error)


def test_gdrive_out_of_reach(
    drive: CatalogueEntry, run: Run, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    def unreachable(*_: Any, **__: Any) -> requests.Response:
        raise requests.exceptions.ConnectionError("[Errno -2] Name or service not known')")

    monkeypatch.setattr(requests.Session, "get", unreachable)
    monkeypatch.setattr(random, "uniform", lambda *_: 0.0)
    error = run.fails(drive, r"Google Drive: no connection \(Name or service not known\)")
    assert "by hand" in str(error)
    assert run.leftovers == []


def test_gdrive_through_a_mirror(server: Server, drive: CatalogueEntry, run: Run, tmp_path: Path) -> None:
    (tmp_path / "thing.bin").write_bytes(CONTENT)
    assert run(drive, str(tmp_path)).read_bytes() == CONTENT
    assert server.requests == []


# ---- PyPI ----


@pytest.fixture
def wheel(entry: CatalogueEntry) -> CatalogueEntry:
    return replace(
        entry, kind="pypi", url="https://pypi.org/project/thing/1/", file="thing-1-py3-none-any.whl"
    )


def test_pip_command_never_installs(
    wheel: CatalogueEntry, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[list[str]] = []

    def fake(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        seen.append(command)
        requirements = Path(command[command.index("--requirement") + 1]).read_text()
        assert requirements == f"thing==1 --hash=sha256:{wheel.sha256}\n"
        (Path(command[command.index("--dest") + 1]) / wheel.file).write_bytes(CONTENT)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(downloads.subprocess, "run", fake)
    assert run(wheel).read_bytes() == CONTENT
    assert seen[0][:4] == [sys.executable, "-m", "pip", "download"]
    for option in ("--no-deps", "--only-binary=:all:", "--require-hashes", "--no-input"):
        assert option in seen[0]
    assert seen[0][seen[0].index("--python-version") + 1] == "3.14"
    assert pip_command(tmp_path / "r", tmp_path) != seen[0]
    assert run.leftovers == ["thing.bin", "thing.bin.source.json"]


@pytest.mark.parametrize(
    ("stderr", "message"),
    [
        (
            f"ERROR: THESE PACKAGES DO NOT MATCH\n  Expected sha256 aa\n       Got        {'b' * 64}\n",
            "wrong checksum",
        ),
        ("ERROR: Could not find a version that satisfies the requirement thing==1\n", "could not fetch"),
        ("/usr/bin/python: No module named pip\n", "has no pip"),
    ],
)
def test_pip_errors(
    wheel: CatalogueEntry, run: Run, monkeypatch: pytest.MonkeyPatch, stderr: str, message: str
) -> None:
    monkeypatch.setattr(
        downloads.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1, "", stderr)
    )
    run.fails(wheel, message)
    assert run.leftovers == []


def test_pip_that_brings_something_else(
    wheel: CatalogueEntry, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        (Path(command[command.index("--dest") + 1]) / wheel.file).write_bytes(bytes(len(CONTENT)))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(downloads.subprocess, "run", fake)
    run.fails(wheel, "wrong checksum")


@pytest.mark.network
def test_the_real_wheel(tmp_path: Path) -> None:
    path = fetch("homeassistant", tmp_path / "homeassistant.whl")
    assert path.stat().st_size == 51_240_053
