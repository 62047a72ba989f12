"""Energy the machine uses, where it counts it: Linux's powercap counters (Intel and AMD processors).

The counters are of the whole machine (processor packages, and memory where it is counted apart): another
job beside this one is in them, a GPU is not. Where there are none, or they may not be read, nothing is said.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neuron_specialization.storage.files import read_json, write_json

POWERCAP = Path("/sys/class/powercap")
# a counter that runs over twice between two readings would be read wrong; that takes some minutes at least
INTERVAL_SECONDS = 20.0


class EnergyMeter:
    """Adds up energy while it is entered.

    Args:
        root: the powercap folder.
        interval: seconds between readings.
    """

    def __init__(self, root: Path = POWERCAP, interval: float = INTERVAL_SECONDS) -> None:
        self._counters = [zone for zone in zones(root) if _read(zone / "energy_uj") is not None]
        self._interval = interval
        self._joules = 0.0
        self._last: dict[Path, int] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def joules(self) -> float | None:
        """What was used; None where the machine does not tell."""
        return self._joules if self._counters else None

    def __enter__(self) -> EnergyMeter:
        if self._counters:
            self._sample()
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._sample()

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self._sample()

    def _sample(self) -> None:
        for zone in self._counters:
            now = _read(zone / "energy_uj")
            if now is None:
                continue
            used = now - self._last.get(zone, now)
            if used < 0:  # it started again from 0
                used += _read(zone / "max_energy_range_uj") or 0
            self._joules += max(used, 0) / 1e6
            self._last[zone] = now


@contextmanager
def metered(path: Path, *, resumed: bool, root: Path = POWERCAP) -> Iterator[None]:
    """Add what is used meanwhile to ``{"joules"}`` in a file.

    The file is there only if every part of the training was metered to its end: a part that was killed with
    its wrapper leaves none, and none is made for what goes on from it.

    Args:
        path: the file.
        resumed: earlier parts are to be in the file already.
        root: the powercap folder.
    """
    before = float(read_json(path)["joules"]) if path.is_file() else None
    path.unlink(missing_ok=True)
    with EnergyMeter(root) as meter:
        yield
    if meter.joules is not None and (before is not None or not resumed):
        write_json(path, {"joules": round(meter.joules + ((before or 0.0) if resumed else 0.0), 3)})


def zones(root: Path = POWERCAP) -> list[Path]:
    """Return the counters that add up without overlap: the packages, and the memory below them.

    A package (``intel-rapl:0``) holds its cores and graphics (``intel-rapl:0:0``), but not the memory
    (``dram``). Folders that show the same counters once more (``intel-rapl-mmio``) are left out.
    """
    found = []
    for zone in sorted(root.glob("*-rapl:*")):
        name = _name(zone)
        below = zone.name.count(":") > 1
        if (name.startswith("package") and not below) or name == "dram":
            found.append(zone)
    return found


def _name(zone: Path) -> str:
    try:
        return (zone / "name").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
