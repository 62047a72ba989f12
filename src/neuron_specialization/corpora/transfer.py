"""One HTTP(S) download, resumed and checked: bytes into a ``.part`` file, whatever the server does.

Nothing here knows the catalogue or checksums of whole files; ``downloads.py`` does. A ``.part`` file that
an earlier run left is taken up where it ended, provided the server still has the same file.
"""

from __future__ import annotations

import html
import json
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import requests

from neuron_specialization.errors import DownloadError
from neuron_specialization.storage.files import write_json

# small: what arrived of a chunk before the connection broke is lost
CHUNK = 1 << 16
MAX_REDIRECTS = 8
# free space that must remain beside the download, bytes
DISK_MARGIN = 64 << 20
_TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}
_TRANSIENT_ERRORS = (
    requests.exceptions.ConnectionError,
    requests.exceptions.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
)
Report = Callable[[str], None]


@dataclass(frozen=True)
class Patience:
    """How long a bad connection is borne. Times in seconds.

    Attributes:
        connect: to reach the server.
        read: without a byte.
        attempts: in a row that bring no new byte before giving up.
        first_pause: before the second attempt, doubled each time up to ``longest_pause``.
    """

    connect: float = 20.0
    read: float = 90.0
    attempts: int = 6
    first_pause: float = 1.0
    longest_pause: float = 60.0


class _TransientError(Exception):
    """Something that a further attempt may cure."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


def human_bytes(count: float) -> str:
    """``1536`` → ``1.5 kB`` (powers of 1,000, as disks and networks are sold)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def check_disk_space(folder: Path, needed: int, what: str) -> None:
    """Refuse before the first byte what would fill the disk.

    Raises:
        DownloadError: fewer than ``needed`` bytes and a margin are free in ``folder``.
    """
    free = shutil.disk_usage(folder).free
    if free < needed + DISK_MARGIN:
        raise DownloadError(
            f"{what} needs {human_bytes(needed)} and {human_bytes(free)} are free",
            where=folder,
            hint="free some space, or set downloads: to a folder on a larger disk",
        )


class Progress:
    """Says how far a long transfer is, at most every ``every`` seconds and never for a short one."""

    def __init__(self, label: str, report: Report, *, start: int = 0, every: float = 10.0) -> None:
        self.label, self.report, self.every = label, report, every
        self.start, self.began = start, time.monotonic()
        self.last = self.began

    def __call__(self, done: int, total: int | None) -> None:
        """Take note of ``done`` of ``total`` bytes."""
        now = time.monotonic()
        if now - self.last < self.every:
            return
        self.last = now
        speed = (done - self.start) / (now - self.began)
        text = f"{self.label}: {human_bytes(done)}"
        if total:
            left = (total - done) / speed if speed > 0 else float("inf")
            text += f" of {human_bytes(total)} ({100 * done / total:.0f} %)"
            text += f", {left / 60:.0f} min left" if left < 360_000 else ""
        self.report(f"{text}, {human_bytes(speed)}/s")


def explain_html(text: str) -> str | None:
    """Return what a web page that came instead of a file says, None when ``text`` is not a web page.

    Args:
        text: the beginning of the body.
    """
    head = text.lstrip("\ufeff \t\r\n")[:65536]
    if not re.match(r"<(!doctype\s+html|html|head|body)\b", head, re.IGNORECASE):
        return None
    lower = head.lower()
    if "quota" in lower or "too many users have viewed or downloaded" in lower:
        return "the server's download quota for this file is exceeded"
    if "sign in" in lower or "accounts.google.com" in lower:
        return "the server asks for a login"
    title = re.search(r"<title[^>]*>(.*?)</title>", head, re.IGNORECASE | re.DOTALL)
    words = " ".join(html.unescape(title.group(1)).split())[:120] if title else ""
    return f"the server sent a web page, titled {words!r}" if words else "the server sent a web page"


def refuse_html(path: Path, expected_name: str, source: str) -> None:
    """Refuse a downloaded file that is a web page though its name says otherwise.

    Raises:
        DownloadError: saying what the page says.
    """
    if expected_name.endswith((".html", ".htm")):
        return
    with path.open("rb") as handle:
        explanation = explain_html(handle.read(65536).decode("utf-8", "replace"))
    if explanation:
        raise DownloadError(f"{expected_name}: {explanation} instead of the file", where=source)


@contextmanager
def _get(
    session: requests.Session, url: str, headers: dict[str, str], patience: Patience, pinned: bool
) -> Iterator[requests.Response]:
    """GET, following redirects by hand: HTTP(S) only, never from HTTPS to HTTP, to another host if pinned."""
    origin = urlsplit(url)
    for _ in range(MAX_REDIRECTS + 1):
        response = session.get(
            url,
            headers=headers,
            stream=True,
            allow_redirects=False,
            timeout=(patience.connect, patience.read),
        )
        if not response.is_redirect:
            try:
                yield response
            finally:
                response.close()
            return
        response.close()
        target = urljoin(url, response.headers["Location"])
        parts = urlsplit(target)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise DownloadError(
                f"the server redirects to {parts.scheme or 'no'}: addresses, which is refused",
                where=f"{url} → {target}",
                hint="check the address; it should lead to the file over https",
            )
        if urlsplit(url).scheme == "https" and parts.scheme == "http":
            raise DownloadError(
                "the server redirects from https to http, which is refused", where=f"{url} → {target}"
            )
        if not pinned and parts.hostname != origin.hostname:
            raise DownloadError(
                "the server redirects to another host, and no checksum is known to check what it sends",
                where=f"{url} → {target}",
                hint="if you trust that address, set it as mirror:, or pin the sha256 in data/catalogue.tsv",
            )
        url = target
    raise DownloadError(f"the server redirects more than {MAX_REDIRECTS} times", where=origin.geturl())


def _validator(response: requests.Response) -> str | None:
    """What tells this version of the file from another: a strong ETag, else the date."""
    tag: str | None = response.headers.get("ETag")
    if tag and not tag.startswith("W/"):
        return tag
    date: str | None = response.headers.get("Last-Modified")
    return date


def _content_range(response: requests.Response) -> tuple[int, int] | None:
    """(first byte, total) of a 206 answer, None where the header is not usable."""
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", ""))
    return (int(match[1]), int(match[3])) if match else None


def _retry_after(response: requests.Response, patience: Patience) -> float:
    value = response.headers.get("Retry-After", "")
    return min(float(value), 5 * patience.longest_pause) if value.isdecimal() else 0.0


class HttpDownload:
    """The state of one download: the ``.part`` file, and the record that says what it is a part of."""

    def __init__(
        self, url: str, part: Path, *, label: str, expected_bytes: int | None, pinned: bool, report: Report
    ) -> None:
        self.url, self.part, self.label = url, part, label
        self.expected_bytes, self.pinned, self.report = expected_bytes, pinned, report
        self.record = part.with_name(part.name + ".json")
        # bytes of an earlier connection are part of the file: a wrong one may be their fault
        self.continued = False

    def run(self, patience: Patience) -> None:
        """Download until the ``.part`` file is whole.

        Raises:
            DownloadError: the server refuses, sends something else, or gives nothing for too long.
        """
        failures, best = 0, self._size()
        with requests.Session() as session:
            # a checksum is over the published bytes, and ranges count them
            session.headers["Accept-Encoding"] = "identity"
            while True:
                try:
                    self._attempt(session, patience)
                    return
                except _TRANSIENT_ERRORS as error:
                    if isinstance(error, requests.exceptions.SSLError):
                        raise DownloadError(f"no trustworthy connection: {error}", where=self.url) from None
                    problem, wait = plain_problem(error), 0.0
                except _TransientError as error:
                    problem, wait = str(error), error.wait
                except requests.exceptions.RequestException as error:
                    raise DownloadError(f"the address cannot be fetched: {error}", where=self.url) from None
                failures = 1 if self._size() > best else failures + 1
                best = max(best, self._size())
                if failures >= patience.attempts:
                    kept = human_bytes(self._size()) if self._size() else None
                    raise DownloadError(
                        f"{self.label}: {failures} attempts in a row brought nothing; the last: {problem}",
                        where=self.url,
                        hint=f"run the same command again: {kept} are kept and it goes on from there"
                        if kept
                        else None,
                    )
                pause = min(patience.first_pause * 2 ** (failures - 1), patience.longest_pause)
                pause = max(wait, pause * random.uniform(0.5, 1.0))
                self.report(
                    f"{self.label}: {problem}; {human_bytes(self._size())} so far, again in {pause:.0f} s"
                )
                time.sleep(pause)

    def discard(self) -> None:
        """Forget what was downloaded."""
        self.part.unlink(missing_ok=True)
        self.record.unlink(missing_ok=True)

    def _size(self) -> int:
        """How much there is to go on from: nothing of what came from another address (a mirror, say)."""
        if not self.part.exists() or self._recorded("url") not in (None, self.url):
            return 0
        return self.part.stat().st_size

    def _recorded(self, key: str) -> str | None:
        """What the record says of the part file: its ``url``, or the ``validator`` of its version."""
        try:
            value = json.loads(self.record.read_text(encoding="utf-8"))[key]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return value if isinstance(value, str) else None

    def _attempt(self, session: requests.Session, patience: Patience) -> None:
        have = self._size()
        validator = self._recorded("validator") if self._recorded("url") == self.url else None
        # With a checksum a wrong splice is found out; without one only the server can vouch for it.
        if have and validator is None and not self.pinned:
            self.discard()
            have = 0
        headers = {"Range": f"bytes={have}-"} if have else {}
        if have and validator:
            headers["If-Range"] = validator
        with _get(session, self.url, headers, patience, self.pinned) as response:
            status = response.status_code
            if status == 416:
                if self.expected_bytes == have or response.headers.get("Content-Range") == f"bytes */{have}":
                    self.continued = True
                    return
                self.discard()
                raise _TransientError("the server has not the rest of the file; starting over")
            if status in _TRANSIENT_STATUS:
                raise _TransientError(
                    f"the server answers {status} {response.reason}", _retry_after(response, patience)
                )
            if status == 404:
                raise MissingFileError("the server has no such file (404)", where=self.url)
            if status not in (200, 206):
                raise DownloadError(self._refusal(response), where=self.url)
            self._refuse_page(response)
            total = self._total(response, have)
            if status == 206:
                span = _content_range(response)
                if not have or span is None or span[0] != have:
                    self.discard()
                    raise _TransientError("the server sent another range than asked for; starting over")
            else:
                if have:
                    self.report(f"{self.label}: the server does not continue; starting over")
                have = 0
            self.continued = have > 0
            if total is not None:
                check_disk_space(self.part.parent, total - have, self.label)
            if not have:
                # first, so that a kill cannot leave other bytes under this record
                self.part.unlink(missing_ok=True)
            write_json(self.record, {"url": self.url, "validator": _validator(response)})
            self._receive(response, have, total)

    def _total(self, response: requests.Response, have: int) -> int | None:
        """The size of the whole file by the server's word, checked against the catalogue's."""
        total: int | None = None
        length = response.headers.get("Content-Length", "")
        if response.status_code == 206:
            span = _content_range(response)
            total = span[1] if span else None
        elif length.isdecimal() and not response.headers.get("Transfer-Encoding"):
            total = int(length)
        if total is not None and self.expected_bytes is not None and total != self.expected_bytes:
            self.discard()
            raise DownloadError(
                f"{self.label}: the server has {total:,} bytes, the catalogue says {self.expected_bytes:,}",
                where=self.url,
                cause="another version, or not the file at all",
            )
        return total

    def _receive(self, response: requests.Response, have: int, total: int | None) -> None:
        limit = total if total is not None else self.expected_bytes
        progress = Progress(self.label, self.report, start=have)
        with self.part.open("ab" if have else "wb") as handle:
            for chunk in response.iter_content(CHUNK):
                have += len(chunk)
                if limit is not None and have > limit:
                    break
                handle.write(chunk)
                # what is kept for a resumption must survive a kill
                handle.flush()
                progress(have, limit)
        if limit is not None and have > limit:
            self.discard()
            raise DownloadError(
                f"{self.label}: the server sends more than the {limit:,} bytes it should", where=self.url
            )
        if total is not None and have < total:
            raise _TransientError(f"the connection ended at {human_bytes(have)} of {human_bytes(total)}")

    def _refuse_page(self, response: requests.Response) -> None:
        if self.label.endswith((".html", ".htm")):
            return
        if "text/html" in response.headers.get("Content-Type", "").lower():
            body = response.raw.read(65536, decode_content=True).decode("utf-8", "replace")
            explanation = explain_html(body) or "the server sent a web page"
            raise DownloadError(f"{self.label}: {explanation} instead of the file", where=self.url)

    def _refusal(self, response: requests.Response) -> str:
        if "text/html" in response.headers.get("Content-Type", "").lower():
            body = response.raw.read(65536, decode_content=True).decode("utf-8", "replace")
            explanation = explain_html(body)
            if explanation:
                return f"{self.label}: {explanation} (status {response.status_code})"
        return f"{self.label}: the server answers {response.status_code} {response.reason}"


class MissingFileError(DownloadError):
    """The server does not have the file: a mirror may lack it."""


def plain_problem(error: BaseException) -> str:
    """Return one short line for what requests says at length."""
    if isinstance(error, requests.exceptions.Timeout):
        return "the server does not answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    text = str(error)
    reason = re.search(r"\[Errno -?\d+\] ([^'\")]+)", text)
    return f"no connection ({reason[1].strip()})" if reason else "no connection"
