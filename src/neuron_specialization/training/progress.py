"""What a trainer says while it runs: its log read line by line, kept as metrics, and shown to a person."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO

from neuron_specialization.directions import DIRECTION_PATTERN
from neuron_specialization.storage.files import atomic_text

# fairseq's JSON log: "<time> | INFO | <train_inner|train|valid> | {…}"
_RECORD = re.compile(r"\| INFO \| (?P<tag>train_inner|train|valid) \| (?P<json>\{.*\})\s*$")
_LOADED = re.compile(r"Loaded checkpoint .* \(epoch \d+ @ (?P<updates>[0-9]{1,12}) updates\)")
_SAVED = re.compile(r"Saved checkpoint .* @ (?P<updates>[0-9]{1,12}) updates")
_FAILURE = re.compile(
    r"FloatingPointError|Minimum loss scale reached|(?:NaN|Inf) detected in|loss is not finite", re.IGNORECASE
)
_DIRECTION = re.compile(rf"directions?[ :=]+(?P<directions>{DIRECTION_PATTERN}(?:, ?{DIRECTION_PATTERN})*)")
_EXTRA = {
    "gradient_norm": "gnorm",
    "epoch": "epoch",
    "best_loss": "valid_best_loss",
    "tokens_per_update": "wpb",
}
# what the criterion of fairseq_plugin tells of each direction in validation
_OF_DIRECTION = re.compile(rf"valid_nll_(?P<direction>{DIRECTION_PATTERN})")
_NUMBERS = ("loss", "nll", "tokens_per_second", "lr", "seconds", "tokens_per_update", "gradient_norm")
_EARLY_STOP = "early stop since valid performance"
_DONE = "| done training in "

# beyond any training: what is larger is not a number of updates
_MAX_UPDATE = 10**12

# bits a token; a loss only a diverging model has: uniform guessing over 64,000 pieces costs 16
EXPLODED = 100.0


@dataclass(frozen=True)
class Record:
    """One line of metrics.jsonl.

    Attributes:
        kind: ``train`` (mean over the updates since the last record) or ``valid`` (the whole validation set).
        update: number of updates made.
        loss: label-smoothed cross entropy, bits a target token.
        nll: the same without label smoothing.
        tokens_per_second: target tokens trained on (or validated), padding not counted.
        lr: learning rate of the next update.
        seconds: since the training began, of all its runs, without what a kill made be done again.
        extra: what else there is: ``tokens_per_update`` (target tokens, of a ``train`` record),
            ``nll_by_direction`` (direction → bits a target token, of a ``valid`` record), …
    """

    kind: Literal["train", "valid"]
    update: int
    loss: float
    nll: float | None = None
    tokens_per_second: float | None = None
    lr: float | None = None
    seconds: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The line's object. JSON knows no NaN: a value that is not finite is given as a string."""
        values = {
            "kind": self.kind,
            "update": self.update,
            "loss": self.loss,
            "nll": self.nll,
            "tokens_per_second": self.tokens_per_second,
            "lr": self.lr,
            "seconds": self.seconds,
            **self.extra,
        }
        return {
            key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in values.items()
            if value is not None
        }


# of a trainer's log: what is kept for the message should it fail
LAST_LINES = 40


@dataclass
class TrainerLog:
    """What has been read from a trainer's log so far.

    Attributes:
        loaded_at: update of the checkpoint it resumed from, None for a new start.
        saved_at: update of the last checkpoint it wrote.
        stopped_early: its patience ended the run.
        done: it said that it was done with training.
        failure: its words on a loss or gradient that is not finite.
        failed_directions: the directions it named in them.
        tail: the last lines.
    """

    loaded_at: int | None = None
    saved_at: int | None = None
    stopped_early: bool = False
    done: bool = False
    failure: str | None = None
    failed_directions: list[str] = field(default_factory=list)
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_LINES))

    def read(self, line: str) -> Record | None:
        """Take note of a line; return the record it holds, if any."""
        line = line.rstrip("\n")
        if line.strip():
            self.tail.append(line)
        record = parse_record(line)
        if record is not None:
            return record
        if match := _LOADED.search(line):
            self.loaded_at = int(match["updates"])
        elif match := _SAVED.search(line):
            self.saved_at = int(match["updates"])
        elif _EARLY_STOP in line:
            self.stopped_early = True
        elif _DONE in line:
            self.done = True
        elif _FAILURE.search(line) and not (self.failed_directions and self.failure):
            self.failure = line.strip()
            if match := _DIRECTION.search(line):
                self.failed_directions = [name.strip() for name in match["directions"].split(",")]
        return None


def parse_record(line: str) -> Record | None:
    """Return the metrics in a line of the trainer's log, or None if it holds none.

    ``train`` lines (the mean of an epoch) repeat what the ``train_inner`` lines said and are left out.
    """
    match = _RECORD.search(line)
    if match is None or match["tag"] == "train":
        return None
    try:
        values = json.loads(match["json"])
    except (ValueError, RecursionError):
        return None  # half a line: the trainer was killed while writing it
    kind: Literal["train", "valid"] = "valid" if match["tag"] == "valid" else "train"
    prefix = "valid_" if kind == "valid" else ""
    update, loss = _float(values.get(f"{prefix}num_updates")), _float(values.get(f"{prefix}loss"))
    if update is None or loss is None or not 0 <= update < _MAX_UPDATE:
        return None
    return Record(
        kind=kind,
        update=int(update),
        loss=loss,
        nll=_float(values.get(f"{prefix}nll_loss")),
        tokens_per_second=_float(values.get(f"{prefix}wps")),
        lr=_float(values.get(f"{prefix}lr")),
        extra={
            name: int(number) if name == "epoch" else number
            for name, key in _EXTRA.items()
            if (number := _float(values.get(key))) is not None and (name != "epoch" or math.isfinite(number))
        }
        | _by_direction(values),
    )


def _by_direction(values: dict[str, Any]) -> dict[str, dict[str, float]]:
    found = {
        match["direction"]: number
        for key, value in values.items()
        if (match := _OF_DIRECTION.fullmatch(key)) and (number := _float(value)) is not None
    }
    return {"nll_by_direction": found} if found else {}


def _float(value: Any) -> float | None:
    """fairseq writes numbers as strings, such as "6.62" or "nan"."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


class MetricsFile:
    """``metrics.jsonl`` of a run in progress; one object a line.

    A run that resumes repeats the updates after its checkpoint: what was recorded of them before is replaced.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records = list(read_metrics(path)) if path.is_file() else []
        # a line cut off by a kill is dropped for good
        self._rewrite()

    @property
    def records(self) -> list[dict[str, Any]]:
        return list(self._records)

    @property
    def seconds(self) -> float:
        """Training time recorded so far."""
        return max((float(record.get("seconds", 0.0)) for record in self._records), default=0.0)

    def forget_after(self, update: int) -> None:
        """Drop the records of later updates, which are about to be made again."""
        kept = [record for record in self._records if record["update"] <= update]
        if len(kept) != len(self._records):
            self._records = kept
            self._rewrite()

    def add(self, record: Record) -> None:
        """Append a record; a record of the same kind at or after its update is replaced."""
        values = record.as_json()
        stale = [
            old for old in self._records if old["kind"] == record.kind and old["update"] >= record.update
        ]
        if stale:
            self._records = [old for old in self._records if old not in stale]
            self._records.append(values)
            self._rewrite()
            return
        self._records.append(values)
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(values) + "\n")

    def _rewrite(self) -> None:
        with atomic_text(self.path) as handle:
            handle.writelines(json.dumps(record) + "\n" for record in self._records)


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a metrics file; a line that was cut off or damaged is left out."""
    for line in path.read_bytes().decode("utf-8", errors="replace").split("\n"):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and _is_record(record):
            yield record


def _is_record(values: dict[str, Any]) -> bool:
    update = values.get("update")
    if values.get("kind") not in ("train", "valid") or isinstance(update, bool):
        return False
    if not isinstance(update, int) or not 0 <= update < _MAX_UPDATE or "loss" not in values:
        return False
    by_direction = values.get("nll_by_direction", {})
    if not isinstance(by_direction, dict):
        return False
    numbers = [values[key] for key in _NUMBERS if key in values]
    return all(_float(number) is not None for number in (*numbers, *by_direction.values()))


class ProgressDisplay:
    """Shows a training's progress: in place on a terminal, else a line every half minute.

    Args:
        stream: where to, usually standard error.
        title: what is trained.
        max_updates: where it ends.
        live: redraw one line; None asks the stream (never in CI).
        every_seconds: pause between lines that stay.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        stream: TextIO,
        title: str,
        max_updates: int,
        *,
        live: bool | None = None,
        every_seconds: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream, self._title, self._max_updates = stream, title, max_updates
        self._live = stream.isatty() and not os.environ.get("CI") if live is None else live
        self._every, self._clock = every_seconds, clock
        self._last_shown = -math.inf
        self._start: tuple[int, float] | None = None  # update and time from which speed is reckoned
        self._valid: Record | None = None
        self._width = 0

    def start_from(self, update: int) -> None:
        """Reckon speed and time left from this update, made (or loaded) now."""
        self._start = (update, self._clock())

    def show(self, record: Record) -> None:
        """Take in a record and show it, if it is time to."""
        if record.kind == "valid":
            self._valid = record
            self.note(f"update {record.update:,}: validation loss {record.loss:.3f}")
            return
        now = self._clock()
        if self._start is None:
            self.start_from(record.update)
        if self._live:
            self._draw(self.line(record))
        elif now - self._last_shown >= self._every:
            self._last_shown = now
            self._write(self.line(record))

    def line(self, record: Record) -> str:
        """The text of a progress line."""
        parts = [
            f"{self._title}: {record.update:,}/{self._max_updates:,} updates"
            f" ({100 * record.update / self._max_updates:.0f} %)"
        ]
        if record.tokens_per_second:
            parts.append(f"{record.tokens_per_second:,.0f} tokens/s")
        parts.append(f"loss {record.loss:.3f}")
        if self._valid is not None:
            parts.append(f"validation {self._valid.loss:.3f}")
        left = self._time_left(record.update)
        if left is not None:
            parts.append(f"{duration(left)} left")
        return ", ".join(parts)

    def note(self, text: str) -> None:
        """Write a line that stays."""
        self._clear()
        self._write(f"{self._title}: {text}")

    def close(self) -> None:
        """Leave the terminal's cursor on a fresh line."""
        self._clear()

    def _time_left(self, update: int) -> float | None:
        if self._start is None:
            return None
        done, seconds = update - self._start[0], self._clock() - self._start[1]
        if done <= 0 or seconds <= 0:
            return None
        return (self._max_updates - update) * seconds / done

    def _draw(self, text: str) -> None:
        self._put("\r" + text.ljust(self._width))
        self._width = len(text)

    def _clear(self) -> None:
        if self._width:
            self._put("\r" + " " * self._width + "\r")
            self._width = 0

    def _write(self, text: str) -> None:
        self._put(text + "\n")

    def _put(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            pass  # nobody is looking any more; that is no reason to stop a training


def duration(seconds: float) -> str:
    """``95`` → ``1 min 35 s``; hours without seconds."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
