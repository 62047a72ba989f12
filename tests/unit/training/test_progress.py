"""The trainer's log: read, kept, shown."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_specialization.training.progress import (
    MetricsFile,
    ProgressDisplay,
    Record,
    TrainerLog,
    duration,
    parse_record,
    read_metrics,
)

TRAIN = (
    '2026-11-22 16:12:38 | INFO | train_inner | {"epoch": 1, "update": 0.021, "loss": "9.191", "nll_loss":'
    ' "8.671", "ppl": "407.5", "wps": "123.4", "ups": "0.08", "wpb": "1570", "bsz": "104", "num_updates":'
    ' "21", "lr": "0.00345", "gnorm": "0.9", "train_wall": "0", "wall": "48"}\n'
)
VALID = (
    '2026-11-22 16:12:47 | INFO | valid | {"epoch": 1, "valid_loss": "9.849", "valid_nll_loss": "9.422",'
    ' "valid_ppl": "686", "valid_wps": "9000", "valid_num_updates": "30", "valid_best_loss": "9.849"}\n'
)


def test_lines_of_fairseq_are_understood() -> None:
    assert parse_record(TRAIN) == Record(
        "train",
        21,
        9.191,
        nll=8.671,
        tokens_per_second=123.4,
        lr=0.00345,
        extra={"gradient_norm": 0.9, "epoch": 1, "tokens_per_update": 1570.0},
    )
    record = parse_record(VALID)
    assert record is not None
    assert (record.kind, record.update, record.loss, record.nll) == ("valid", 30, 9.849, 9.422)
    assert record.extra == {"best_loss": 9.849, "epoch": 1}
    assert isinstance(record.extra["epoch"], int)


@pytest.mark.parametrize(
    "line",
    [
        "",
        TRAIN[:100],
        TRAIN.replace("train_inner", "train"),  # an epoch's mean: its updates were logged already
        '2026 | INFO | valid | {"epoch": 1}',
        "2026 | INFO | fairseq.trainer | {1: 2}",
        '2026 | INFO | valid | {"valid_loss": "x", "valid_num_updates": "1"}',
    ],
)
def test_other_lines_are_no_records(line: str) -> None:
    assert parse_record(line) is None


@given(st.text(max_size=300))
def test_no_line_breaks_the_reader(text: str) -> None:
    log = TrainerLog()
    log.read(text)
    log.read(f"t | INFO | valid | {{{text}}}")
    log.read("t | INFO | fairseq.trainer | Loaded checkpoint a/checkpoint_last.pt (epoch 3 @ 500 updates)\n")
    assert log.loaded_at == 500


def test_what_the_log_says_in_words() -> None:
    log = TrainerLog()
    log.read("t | INFO | fairseq.trainer | Loaded checkpoint a/checkpoint_last.pt (epoch 3 @ 500 updates)\n")
    log.read("t | INFO | x | Saved checkpoint a/b.pt (epoch 4 @ 600 updates, score 3.1)\n")
    assert (log.loaded_at, log.saved_at, log.stopped_early, log.failure) == (500, 600, False, None)
    log.read("early stop since valid performance hasn't improved for last 3 runs\n")
    assert log.stopped_early
    log.read("FloatingPointError: the loss is not finite at update 601, directions: en-de, zh_Hans-en\n")
    assert log.failure is not None and "update 601" in log.failure
    assert log.failed_directions == ["en-de", "zh_Hans-en"]


def metrics(path: Path) -> list[tuple[str, int]]:
    return [(record["kind"], record["update"]) for record in read_metrics(path)]


def test_metrics_survive_resuming_without_repeats(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path)
    for update in (10, 20, 30, 40):
        first.add(Record("train", update, 5.0, seconds=update / 10))
    first.add(Record("valid", 20, 4.0))
    with path.open("a") as handle:
        handle.write('{"kind": "train", "upd')  # killed while writing
    again = MetricsFile(path)
    again.forget_after(20)
    assert again.seconds == 2.0
    again.add(Record("train", 30, 4.5, seconds=3.0))
    assert metrics(path) == [("train", 10), ("train", 20), ("valid", 20), ("train", 30)]
    assert [json.loads(line)["loss"] for line in path.read_text().splitlines()] == [5.0, 5.0, 4.0, 4.5]


def test_a_repeated_update_replaces_the_old_record(tmp_path: Path) -> None:
    """Also when the trainer fell back further than we knew."""
    file = MetricsFile(tmp_path / "m.jsonl")
    for update in (10, 20, 30):
        file.add(Record("train", update, 5.0))
    file.add(Record("valid", 30, 4.0))
    file.add(Record("train", 20, 1.0))
    assert metrics(tmp_path / "m.jsonl") == [("train", 10), ("valid", 30), ("train", 20)]


def test_a_loss_that_is_no_number_is_still_json(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "m.jsonl")
    file.add(Record("train", 1, float("nan")))
    assert json.loads((tmp_path / "m.jsonl").read_text())["loss"] == "nan"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_progress_line() -> None:
    clock, stream = Clock(), io.StringIO()
    display = ProgressDisplay(stream, "ns", 1000, live=False, clock=clock)
    display.show(Record("train", 100, 7.0, tokens_per_second=5123.4))
    clock.now = 10.0
    display.show(Record("train", 150, 6.5))  # too soon for another line
    display.show(Record("valid", 200, 6.0))
    clock.now = 40.0
    display.show(Record("train", 300, 5.25, tokens_per_second=5000))
    assert stream.getvalue().splitlines() == [
        "ns: 100/1,000 updates (10 %), 5,123 tokens/s, loss 7.000",
        "ns: update 200: validation loss 6.000",
        "ns: 300/1,000 updates (30 %), 5,000 tokens/s, loss 5.250, validation 6.000, 2 min 20 s left",
    ]


def test_a_terminal_gets_one_line_in_place() -> None:
    stream = io.StringIO()
    display = ProgressDisplay(stream, "ns", 10, live=True, clock=Clock())
    display.show(Record("train", 1, 7.0, tokens_per_second=100000.0))
    display.show(Record("train", 2, 6.0))
    display.close()
    text = stream.getvalue()
    assert "\n" not in text
    assert text.count("\r") == 4
    assert text.endswith("\r")


def test_ci_is_never_live(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("CI", raising=False)
    stream = Terminal()
    ProgressDisplay(stream, "ns", 10).show(Record("train", 1, 7.0))
    assert "\r" in stream.getvalue()
    monkeypatch.setenv("CI", "true")
    stream = Terminal()
    ProgressDisplay(stream, "ns", 10).show(Record("train", 1, 7.0))
    assert "\r" not in stream.getvalue()


def test_a_reader_that_went_away_stops_nothing() -> None:
    stream = io.StringIO()
    stream.close()
    ProgressDisplay(stream, "ns", 10, live=False).show(Record("train", 1, 7.0))


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.4, "4 s"), (95, "1 min 35 s"), (3600, "1 h 00 min"), (93784, "26 h 03 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
