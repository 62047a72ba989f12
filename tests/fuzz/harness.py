"""What every fuzz target shares: hostile edits, and the guard under which a reader runs.

A reader of foreign bytes reads them or raises an error of this project; it starts no program, runs no code of
the file's, writes nothing outside the folder it was given, and needs little time and memory. An audit hook of
the interpreter sees every file that is opened and every program that is started, by whatever way.
"""

from __future__ import annotations

import copy
import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from neuron_specialization.errors import NeuronSpecializationError

# `make fuzz` sets it
CASES = int(os.environ.get("FUZZ_CASES", "20"))
fuzz = settings(
    max_examples=CASES,
    deadline=None,
    # a failure is kept and tried again first; the search itself is new in every long run
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
    ],
)

MAX_CPU_SECONDS = 10.0
MAX_MEMORY_KIB = 400 * 1024
# an allocation beyond this fails, before it takes the machine along
MAX_ADDRESSES = 3 << 30

# target → read, refused; shown at the end of a run
OUTCOMES: dict[str, Counter[str]] = {}

_PROGRAMS = {
    *("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "os.spawn", "subprocess.Popen"),
    *("pty.spawn", "socket.connect", "socket.bind", "socket.getaddrinfo", "ctypes.dlopen"),
    # of the standard unpickler, which no reader of foreign files may use
    "pickle.find_class",
}
_CHANGES = {
    *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod"),
    *("os.chown", "os.utime", "shutil.rmtree", "shutil.move"),
}
_allowed: Path | None = None
_seen: list[str] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _allowed is None:
        return
    if event in _PROGRAMS or (event == "exec" and arguments[0].co_filename == "<string>"):
        _seen.append(f"{event} {arguments}"[:200])
    elif event in _CHANGES:
        # of a link the place where it is made; of what is renamed both names
        paths = arguments[1:2] if event in ("os.symlink", "os.link") else arguments[:2]
        if (
            event in ("os.remove", "os.rmdir", "os.mkdir")
            and isinstance(arguments[-1], int)
            and arguments[-1] >= 0
        ):
            # relative to an open folder, as shutil.rmtree goes about it
            paths = (Path(os.readlink(f"/proc/self/fd/{arguments[-1]}")) / os.fsdecode(arguments[0]),)  # noqa: PTH115
        _seen.extend(
            f"{event} {path}" for path in paths if isinstance(path, str | os.PathLike) and _outside(path)
        )
    elif event == "open":
        path, _, flags = arguments
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        if writes and isinstance(path, str | bytes | os.PathLike) and _outside(path):
            _seen.append(f"open to write {path!r}")


def _outside(path: str | bytes | os.PathLike[str]) -> bool:
    # not resolve(): a link that is made or removed is where its name is, not where it leads
    place = Path(os.path.abspath(os.fsdecode(path)))  # noqa: PTH100
    return _allowed is not None and not (place.parent.resolve() / place.name).is_relative_to(_allowed)


sys.addaudithook(_audit)


class TakesForeverError(BaseException):
    """The reader did not come to an end."""


def _too_long(*_: object) -> None:
    raise TakesForeverError


@contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """Fail if what runs inside starts programs, writes outside ``folder``, or takes much time or memory."""
    global _allowed
    _seen.clear()
    former = signal.signal(signal.SIGVTALRM, _too_long)
    # the test of this guard sets a limit below 0, which no time is under
    signal.setitimer(signal.ITIMER_VIRTUAL, 4 * abs(MAX_CPU_SECONDS))
    addresses = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MAX_ADDRESSES, addresses[1]))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    _allowed = folder.resolve()
    try:
        yield
    finally:
        _allowed = None
        resource.setrlimit(resource.RLIMIT_AS, addresses)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, former)
    assert not _seen, _seen
    assert time.process_time() - began < MAX_CPU_SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < MAX_MEMORY_KIB


def reads_or_explains(target: str, folder: Path, read: Callable[[], Any]) -> Any:
    """Return what the reader returns, or None if it refuses. Any other end is a failure of the test."""
    outcomes = OUTCOMES.setdefault(target, Counter())
    with guarded(folder):
        try:
            result = read()
        except NeuronSpecializationError as error:
            outcomes["refused"] += 1
            assert error.what.strip()
            return None
    outcomes["read"] += 1
    return result


# what formats are made of: lengths at their limits, separators, words of the parsers, programs
TOKENS = [
    *(b"\x00", b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\n", b"\r\n", b"\t", b" ", b"\xe2\x80\xa8", b"\xc0\x80"),
    *(b"{", b"}", b"[", b"]", b'"', b"-1", b"1e999", b"nan", b"null", b"true", b"9" * 5000, b"\\ud800"),
    *(b"H-0\t", b"S-99999999999999999999\t", b"[0,9]", b"__de__", b"../../x", b"/etc/passwd", b"; true"),
    *(b"!!python/object/apply:os.system [true] ", b"&a [*a]", b"*a", b"<<: ", b"? ", b"2001-99-99", b"0x"),
    *(
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x02",
        b"\x93",
        b"R",
        b"b",
        b"\x81",
        b"PK\x03\x04",
        b"\x1f\x8b\x08",
    ),
]
Edits = list[tuple[str, float, bytes]]
_KINDS = ("insert", "replace", "delete", "cut", "repeat", "flip", "insert", "replace")


def _edits_of(program: bytes) -> Edits:
    """Read bytes as edits, six bytes each: what, where, and a token or up to three bytes themselves.

    Hypothesis draws and shrinks one string of bytes far faster than lists of lists.
    """
    changes: Edits = []
    for start in range(0, len(program), 6):
        kind, high, low, *rest = program[start : start + 6].ljust(6, b"\0")
        piece = bytes(rest[1:]) if rest[0] >= 2 * len(TOKENS) else TOKENS[rest[0] % len(TOKENS)]
        changes.append((_KINDS[kind % len(_KINDS)], (high * 256 + low) / 65536, piece))
    return changes


edits: st.SearchStrategy[Edits] = st.binary(max_size=30).map(_edits_of)


def edited(data: bytes, changes: Edits) -> bytes:
    """Apply the edits, each at its share of the way through."""
    for kind, where, piece in changes:
        at = int(where * len(data))
        match kind:
            case "insert":
                data = data[:at] + piece + data[at:]
            case "replace":
                data = data[:at] + piece + data[at + len(piece) :]
            case "delete":
                data = data[:at] + data[at + len(piece) + 1 :]
            case "cut":
                data = data[:at]
            case "repeat":
                data = data[:at] + data[max(0, at - 40) : at] * 3 + data[at:]
            case "flip":
                data = (
                    data[:at]
                    + bytes(byte ^ 1 << len(piece) % 8 for byte in data[at : at + 1])
                    + data[at + 1 :]
                )
    return data


# ---- values in place of others, for formats that are trees ----

VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 3, 0.5, 2**31, 2**63, 2**64, 10**30, 1e308, float("inf"), float("nan")),
    *(
        "",
        "nan",
        "1",
        "de; rm -rf",
        "$(true)",
        "`true`",
        "../x",
        "/etc/passwd",
        "-x",
        "a\nb",
        "\ud800",
        "a" * 5000,
    ),
    *("de-en", "de", "en", "dense", "encoder.layers.0", "text", "\u202e", "x\x00y", "2001-01-01", "~", "*"),
    *(
        [],
        {},
        [[]],
        {"": {}},
        [None],
        ["de-en"],
        ["de", "de"],
        {"encoder.layers.0": 24},
        {"encoder.layers.0": -8},
    ),
    *(
        {"de-en": {}},
        {"dense": {"mask": None}},
        {"../x": {"bytes": 1, "sha256": "0" * 64}},
        [float("nan")],
        10**400,
    ),
]
# where in the tree (a share of all places), what is put there; "drop" takes it away
Grafts = list[tuple[float, Any]]


def _grafts_of(program: bytes) -> Grafts:
    """Read a string of bytes as changes of a tree, three bytes each: where, and what."""
    return [
        (
            (program[start] * 256 + program[start + 1]) / 65536,
            "drop"
            if program[start + 2] % 5 == 0
            else copy.deepcopy(VALUES[program[start + 2] % len(VALUES)]),
        )
        for start in range(0, len(program) - 2, 3)
    ]


grafts: st.SearchStrategy[Grafts] = st.binary(min_size=3, max_size=9).map(_grafts_of)


def places(tree: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything in a tree of dicts and lists."""
    found: list[tuple[Any, Any]] = []
    if isinstance(tree, dict | list):
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            found.append((tree, key))
            found.extend(places(tree[key]))
    return found


def grafted(tree: Any, changes: Grafts) -> Any:
    """Apply the changes to a tree of dicts and lists, in place."""
    for where, value in changes:
        spots = places(tree)
        if not spots:
            return tree
        container, key = spots[min(int(where * len(spots)), len(spots) - 1)]
        if isinstance(value, str) and value == "drop":
            del container[key]
        else:
            container[key] = value
    return tree
