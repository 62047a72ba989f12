"""Fetch a file of the catalogue: from a mirror, a package index, a web server or Google Drive.

A file gets its final name only when it is whole and its checksum is the catalogue's. Beside it stays
``<file>.source.json``: where it came from, its sha256, and whether that was verified or merely seen.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

from neuron_specialization.catalogue import CatalogueEntry, catalogue_entry
from neuron_specialization.corpora.transfer import (
    HttpDownload,
    MissingFileError,
    Patience,
    Progress,
    Report,
    check_disk_space,
    explain_html,
    human_bytes,
    plain_problem,
    refuse_html,
)
from neuron_specialization.errors import DownloadError, NeuronSpecializationError
from neuron_specialization.storage.files import read_json, sha256_of, write_json
from neuron_specialization.storage.locks import open_lock
from neuron_specialization.storage.unfinished import unfinished_folder

# The wheel is data to us: its Python version is the publisher's, not that of this environment.
PYPI_PYTHON = "3.14"


def _to_stderr(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def fetch(
    name: str,
    output: str | Path,
    *,
    mirror: str | None = None,
    report: Report = _to_stderr,
    patience: Patience | None = None,
) -> Path:
    """Fetch the catalogue's ``name`` to ``output`` and return that path.

    A file that is there already and has the right checksum is left alone. An interrupted download goes on
    where it ended.

    Args:
        name: a name of data/catalogue.tsv.
        output: the file to write; its folder is made.
        mirror: tried first: a folder that holds the file under its catalogue name, a file, a base URL, or a
            URL that ends in the file's name. What it lacks or has with another checksum is fetched elsewhere.
        report: receives one line a message.
        patience: timeouts and attempts.

    Raises:
        DownloadError: it cannot be had, or what came is not it. Nothing stands at ``output`` then.
    """
    return fetch_entry(
        catalogue_entry(name), Path(output), mirror=mirror, report=report, patience=patience or Patience()
    )


def fetch_entry(
    entry: CatalogueEntry, output: Path, *, mirror: str | None, report: Report, patience: Patience
) -> Path:
    """``fetch`` for an entry in hand."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with _alone(output, report):
        if output.is_file():
            if _is_the_file(entry, output):
                return output
            report(f"{output}: not what the catalogue lists; fetching it again")
            output.unlink()
        if entry.bytes is not None:
            check_disk_space(output.parent, entry.bytes, entry.file)
        attempts: list[str] = []
        if mirror is not None:
            try:
                return _from_mirror(entry, output, mirror, report, patience)
            except DownloadError as error:
                report(f"{entry.file}: not from the mirror: {error.what}; trying its origin")
                attempts.append(f"mirror {mirror}: {error.what}")
        report(f"fetching {entry.file} ({_size_text(entry)}, {entry.licence}) from {entry.page}")
        try:
            return _from_origin(entry, output, report, patience)
        except DownloadError as error:
            raise DownloadError(
                error.what,
                where=error.where or entry.page,
                cause=error.cause or ("; ".join(attempts) or None),
                hint=error.hint or by_hand(entry),
            ) from None


def by_hand(entry: CatalogueEntry) -> str:
    """How a person gets the file past whatever stops this program."""
    return (
        f"download it by hand from {entry.page}, save it as {entry.file} in a folder, "
        "and set mirror: to that folder (or --mirror FOLDER)"
    )


def verify(entry: CatalogueEntry, path: Path, source: str) -> str:
    """Check size and checksum of a file; return its sha256.

    Raises:
        DownloadError: they differ from the catalogue's, stating both; or it is a web page.
    """
    refuse_html(path, entry.file, source)
    size = path.stat().st_size
    if size == 0:
        raise DownloadError(f"{entry.file} is empty", where=source)
    if entry.bytes is not None and size != entry.bytes:
        raise DownloadError(
            f"{entry.file} has {size:,} bytes, the catalogue says {entry.bytes:,}",
            where=source,
            cause="truncated, or another version",
        )
    checksum = sha256_of(path)
    if entry.sha256 is not None and checksum != entry.sha256:
        cause = "another version, a damaged transfer, or a file somebody changed"
        raise DownloadError(_wrong_checksum(entry, checksum), where=source, cause=cause)
    return checksum


def _wrong_checksum(entry: CatalogueEntry, actual: str) -> str:
    return (
        f"{entry.file} has the wrong checksum\n  expected: sha256 {entry.sha256}\n  actual:   sha256 {actual}"
    )


def source_record(output: Path) -> Path:
    """The record beside a downloaded file."""
    return output.with_name(output.name + ".source.json")


# ---- the three origins and the mirror ----


def _from_origin(entry: CatalogueEntry, output: Path, report: Report, patience: Patience) -> Path:
    if entry.kind == "pypi":
        return _from_pypi(entry, output, report)
    if entry.kind == "gdrive":
        return _from_gdrive(entry, output, report, patience)
    return _from_url(entry, output, entry.url, report, patience)


def _from_mirror(
    entry: CatalogueEntry, output: Path, mirror: str, report: Report, patience: Patience
) -> Path:
    if urlsplit(mirror).scheme in ("http", "https"):
        name = quote(entry.file)
        url = mirror if mirror.rstrip("/").endswith(f"/{name}") else f"{mirror.rstrip('/')}/{name}"
        return _from_url(entry, output, url, report, patience)
    path = Path(mirror).expanduser()
    if path.is_dir():
        path = path / entry.file
    if not path.is_file():
        raise MissingFileError(f"no file {path}", where=path)
    verify(entry, path, str(path))
    with unfinished_folder(output) as folder:
        check_disk_space(folder, path.stat().st_size, entry.file)
        # a copy: a link would change or vanish with the mirror
        copy = folder / entry.file
        shutil.copyfile(path, copy)
        return _publish(entry, copy, output, str(path.resolve()), report)


def _from_url(entry: CatalogueEntry, output: Path, url: str, report: Report, patience: Patience) -> Path:
    download = HttpDownload(
        url,
        output.with_name(f".{output.name}.part"),
        label=entry.file,
        expected_bytes=entry.bytes,
        pinned=entry.sha256 is not None,
        report=report,
    )
    fresh = False
    while True:
        download.run(patience)
        try:
            return _publish(entry, download.part, output, url, report)
        except DownloadError:
            if fresh or not download.continued:
                raise
            report(f"{entry.file}: put together from several connections it is not the file; starting over")
            fresh = True
        finally:
            # whole but wrong: resuming it would never come right
            download.discard()


def pip_command(requirements: Path, folder: Path) -> list[str]:
    """The command that lets pip fetch a wheel: its resolver honours mirrors, proxies and certificates."""
    return [
        *(sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input"),
        *("--progress-bar", "off", "--no-deps", "--only-binary=:all:", "--python-version", PYPI_PYTHON),
        *("--require-hashes", "--requirement", str(requirements), "--dest", str(folder)),
    ]


def _from_pypi(entry: CatalogueEntry, output: Path, report: Report) -> Path:
    with unfinished_folder(output) as folder:
        requirements = folder / "requirements.txt"
        requirements.write_text(
            f"{entry.name}=={entry.version} --hash=sha256:{entry.sha256}\n", encoding="utf-8"
        )
        done = subprocess.run(
            pip_command(requirements, folder), capture_output=True, text=True, errors="replace", check=False
        )
        if done.returncode:
            raise _pip_error(entry, done.stderr)
        wheel = folder / entry.file
        if not wheel.is_file():
            found = ", ".join(sorted(path.name for path in folder.glob("*.whl"))) or "nothing"
            raise DownloadError(f"pip fetched {found}, not {entry.file}", where=entry.page)
        return _publish(entry, wheel, output, entry.page, report)


def _pip_error(entry: CatalogueEntry, stderr: str) -> DownloadError:
    if "No module named pip" in stderr:
        return DownloadError(
            "this environment has no pip, which fetches packages", where=sys.executable, hint="make env"
        )
    got = re.search(r"Got\s+([0-9a-f]{64})", stderr)
    if got:
        return DownloadError(
            _wrong_checksum(entry, got[1]),
            where=entry.page,
            cause="the package index (or mirror) serves another file",
        )
    errors = [line for line in stderr.splitlines() if line.startswith("ERROR:")] or stderr.splitlines()
    return DownloadError(
        "pip could not fetch the package:\n  " + "\n  ".join(errors[-4:]),
        where=entry.page,
        cause="no network, a proxy, or an index without this package",
        hint=f"pip config list; or {by_hand(entry)}",
    )


class _ChangedError(Exception):
    """The published file changed between two attempts."""


def _from_gdrive(entry: CatalogueEntry, output: Path, report: Report, patience: Patience) -> Path:
    import gdown
    import requests
    from gdown.exceptions import DownloadError as GdownError

    # gdown keeps its partial file beside its output, and refuses to choose between two: give it a folder
    folder = output.with_name(f".{output.name}.gdrive")
    size_record = folder / "size.json"
    target = folder / "file"
    for last in (False, True):
        folder.mkdir(parents=True, exist_ok=True)
        known = read_json(size_record)["bytes"] if size_record.is_file() else None
        say = Progress(entry.file, report)

        def progress(done: int, total: int | None, known: int | None = known, say: Progress = say) -> None:
            if total is not None:
                if known is not None and total != known:
                    raise _ChangedError
                if not size_record.is_file():
                    write_json(size_record, {"bytes": total})
                    check_disk_space(folder, total - done, entry.file)
            say(done, total)

        try:
            gdown.download(
                id=entry.url,
                output=str(target),
                quiet=True,
                resume=True,
                use_cookies=False,
                timeout=(patience.connect, patience.read),
                retries=patience.attempts,
                progress=progress,
            )
            break
        except (_ChangedError, GdownError) as error:
            changed = isinstance(error, _ChangedError) or "byte range" in str(error)
            if changed and not last:
                report(f"{entry.file}: the file on Google Drive changed or does not continue; starting over")
                shutil.rmtree(folder)
                continue
            raise _gdrive_error(entry, error) from None
        except (requests.exceptions.RequestException, KeyError, OSError) as error:
            raise _gdrive_error(entry, error) from None
        finally:
            _remove_if_empty(folder)
    try:
        return _publish(entry, target, output, entry.page, report)
    finally:
        shutil.rmtree(folder)


def _remove_if_empty(folder: Path) -> None:
    """Remove the folder of a download of which nothing has come."""
    if folder.is_dir() and not any(path.stat().st_size for path in folder.iterdir()):
        shutil.rmtree(folder)


def _gdrive_error(entry: CatalogueEntry, error: BaseException) -> DownloadError:
    import requests

    text = str(error)
    lower = text.lower()
    if "incomplete" in lower:
        return DownloadError(
            f"{entry.file}: Google Drive: the connection broke off, the download is incomplete",
            where=entry.page,
            hint="run the same command again: what has come is kept and it goes on from there",
        )
    # gdown wraps what requests raised when it has tried often enough
    for problem in (error, error.__cause__):
        if isinstance(problem, requests.exceptions.ConnectionError | requests.exceptions.Timeout):
            return DownloadError(f"{entry.file}: Google Drive: {plain_problem(problem)}", where=entry.page)
    if "too many users" in lower or "quota" in lower or "many accesses" in lower:
        what = "Google Drive's download quota for this file is exceeded, or it is not public"
    elif "cannot retrieve" in lower or "permission" in lower:
        what = "Google Drive does not give the file out"
    else:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        what = f"Google Drive: {explain_html(text) or ' '.join(lines)[:300]}"
    return DownloadError(
        f"{entry.file}: {what}", where=entry.page, hint=f"wait a day and run it again, or {by_hand(entry)}"
    )


# ---- the end of every way ----


def _publish(entry: CatalogueEntry, path: Path, output: Path, source: str, report: Report) -> Path:
    """Verify ``path``, record it, and give it its final name."""
    checksum = verify(entry, path, source)
    size = path.stat().st_size
    if entry.sha256 is None:
        report(
            f"UNVERIFIED: no checksum of {entry.file} is known yet. What came from {source} has "
            f"{size} bytes, sha256 {checksum}. Once you trust it, write both into data/catalogue.tsv."
        )
        seen = _seen(output)
        if seen and seen != checksum:
            report(f"{entry.file}: this is another file than the one fetched before (sha256 {seen})")
    with path.open("rb") as handle:
        os.fsync(handle.fileno())
    write_json(
        source_record(output),
        {
            "name": entry.name,
            "version": entry.version,
            "source": source,
            "bytes": size,
            "sha256": checksum,
            "verified": entry.sha256 is not None,
            "licence": entry.licence,
            "citation": entry.citation,
        },
    )
    path.replace(output)
    return output


def _seen(output: Path) -> str | None:
    try:
        return str(read_json(source_record(output))["sha256"])
    except (NeuronSpecializationError, KeyError, TypeError):
        # no record, or not ours: there is nothing to compare with
        return None


def _is_the_file(entry: CatalogueEntry, output: Path) -> bool:
    """Whether ``output`` is the catalogue's file; an unverified one is held to the record of its download."""
    if entry.bytes is not None and output.stat().st_size != entry.bytes:
        return False
    expected = entry.sha256 or _seen(output)
    return expected is not None and sha256_of(output) == expected


@contextmanager
def _alone(output: Path, report: Report) -> Iterator[None]:
    """Hold the lock of one download: two workflows may share a downloads folder."""
    with os.fdopen(open_lock(output.with_name(f".{output.name}.lock")), "rb") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"{output.name}: another process is fetching it; waiting")
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            # a file system without locks: go on as if alone
            pass
        yield
        # The lock file stays: removing it would let a waiter and a newcomer hold two different locks.


def _size_text(entry: CatalogueEntry) -> str:
    return "size unknown" if entry.bytes is None else human_bytes(entry.bytes)
