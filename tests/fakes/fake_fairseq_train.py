"""A stand-in for fairseq-train: takes its arguments, writes its log lines and checkpoints, dies on demand.

It trains nothing and imports no torch: its checkpoints are copies of prepared ones, one an update (see
tests/fakes/checkpoints.py), so that a resumed run knows its update by comparing bytes.

Environment:
    FAKE_CHECKPOINTS            folder of ``<update>.pt``, one for every multiple of --save-interval-updates
    FAKE_RECORD                 JSON lines: arguments and environment of each start
    FAKE_SECONDS_PER_UPDATE     default 0
    FAKE_DIE_AT_UPDATE          kill -9 itself before that update is made
    FAKE_DIE_ONCE               a file: with it in place FAKE_DIE_AT_UPDATE and FAKE_KILL_PARENT do nothing
    FAKE_KILL_PARENT            kill -9 the parent when FAKE_DIE_AT_UPDATE is reached and it has written
                                down the update before, and go on itself
    FAKE_TRUNCATE_LAST          when dying, cut checkpoint_last.pt to half its size
    FAKE_NAN_AT_UPDATE          log a loss of NaN there, and go on
    FAKE_RAISE_NAN_AT_UPDATE    end as fairseq does on a gradient that is not finite
    FAKE_EXIT                   ``status:words``: end at once with words on the log
    FAKE_EXIT_AFTERWARDS        status: end with it when all is done, as a process that the others left early
    FAKE_STOP_EARLY_AT          end there as patience does
    FAKE_END_AT                 end there for no reason given, as if all were done
    FAKE_IGNORE_TERM            do not end on SIGTERM
    FAKE_COMPUTE                compute in C for a minute before anything else
    FAKE_EXIT_RANK              only the process of this rank heeds FAKE_EXIT
"""

from __future__ import annotations

import argparse
import contextlib
import filecmp
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path


def say(text: str, tag: str = "fairseq_cli.train") -> None:
    # as logging does: a reader that went away is no reason to stop
    with contextlib.suppress(BrokenPipeError):
        print(f"2026-01-01 00:00:00 | INFO | {tag} | {text}", flush=True)


def number(name: str, default: float) -> float:
    return float(os.environ.get(name, default))


def record(**values: object) -> None:
    if "FAKE_RECORD" in os.environ:
        with Path(os.environ["FAKE_RECORD"]).open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(values) + "\n")


class FakeTrainer:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.prepared = Path(os.environ["FAKE_CHECKPOINTS"])
        self.folder = Path(options.save_dir)
        self.last = self.folder / "checkpoint_last.pt"

    def resume(self) -> int:
        """The update of checkpoint_last.pt, 0 without one; ends as fairseq does if it cannot be read."""
        if not self.last.is_file():
            say(f"No existing checkpoint found {self.last}", "fairseq.trainer")
            return 0
        for path in self.prepared.glob("*.pt"):
            if filecmp.cmp(path, self.last, shallow=False):
                say(f"Loaded checkpoint {self.last} (epoch 1 @ {path.stem} updates)", "fairseq.trainer")
                return int(path.stem)
        print("RuntimeError: PytorchStreamReader failed reading zip archive", flush=True)
        sys.exit(1)

    def save(self, update: int) -> None:
        if self.options.distributed_rank:
            return
        interval = self.folder / f"checkpoint_1_{update}.pt"
        for target in (interval, self.folder / "checkpoint_best.pt", self.last):
            shutil.copyfile(self.prepared / f"{update}.pt", target)
        kept = sorted(self.folder.glob("checkpoint_1_*.pt"), key=lambda path: int(path.stem.split("_")[-1]))
        for old in kept[: -self.options.keep_interval_updates]:
            old.unlink()
        say(
            f"Saved checkpoint {interval} (epoch 1 @ {update} updates, score 1.0)", "fairseq.checkpoint_utils"
        )

    def log_train(self, update: int) -> None:
        values = {
            "epoch": 1,
            "update": update / 1000,
            "loss": "nan" if update == number("FAKE_NAN_AT_UPDATE", -1) else f"{12 - update / 50:.3f}",
            "nll_loss": f"{11 - update / 50:.3f}",
            "wps": "5000.5",
            "num_updates": str(update),
            "lr": "0.005",
            "gnorm": "1.5",
        }
        say(json.dumps(values), "train_inner")

    def validate(self, update: int) -> None:
        values = {
            "epoch": 1,
            "valid_loss": f"{11 - update / 50:.3f}",
            "valid_nll_loss": f"{10 - update / 50:.3f}",
            "valid_wps": "20000",
            "valid_num_updates": str(update),
        }
        say(json.dumps(values), "valid")

    def wait_until_read(self, update: int) -> None:
        """Until the parent has written down that update: without pauses we are far ahead of a slow reader."""
        written = self.last.with_name("metrics.jsonl")
        for _ in range(1000):
            if written.exists() and f'"update": {update},' in written.read_text(encoding="utf-8"):
                return
            time.sleep(0.01)

    def die(self, update: int) -> None:
        if update != number("FAKE_DIE_AT_UPDATE", -1):
            return
        once = os.environ.get("FAKE_DIE_ONCE")
        if once:
            if Path(once).exists():
                return
            Path(once).touch()
        if "FAKE_TRUNCATE_LAST" in os.environ:
            os.truncate(self.last, self.last.stat().st_size // 2)
        if "FAKE_KILL_PARENT" in os.environ:
            self.wait_until_read(update - 1)
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)  # the kernel is to end us; if it does not, we would be found alive
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    def run(self) -> None:
        rank = self.options.distributed_rank
        if "FAKE_COMPUTE" in os.environ:
            record(computing=rank)
            hashlib.pbkdf2_hmac("sha256", b"a", b"b", 100_000_000)
        if "FAKE_EXIT" in os.environ and number("FAKE_EXIT_RANK", rank) == rank:
            status, _, words = os.environ["FAKE_EXIT"].partition(":")
            print(words, flush=True)
            sys.exit(int(status))
        if "FAKE_IGNORE_TERM" in os.environ:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        update = self.resume()
        record(resumed_at=update)
        while update < self.options.max_update:
            update += 1
            self.die(update)
            time.sleep(number("FAKE_SECONDS_PER_UPDATE", 0))
            if update == number("FAKE_RAISE_NAN_AT_UPDATE", -1):
                say("directions: en-de, de-en", "neuron_specialization")
                print("FloatingPointError: gradients are Nan/Inf", flush=True)
                sys.exit(1)
            if update % self.options.log_interval == 0:
                self.log_train(update)
            stop = update == number("FAKE_STOP_EARLY_AT", -1)
            if update % self.options.save_interval_updates == 0 or stop or update == self.options.max_update:
                self.validate(update)
                if stop:
                    say("early stop since valid performance hasn't improved for last 2 runs")
                self.save(update)
            if stop or update == number("FAKE_END_AT", -1):
                break
        say("done training in 1.0 seconds")
        if "FAKE_EXIT_AFTERWARDS" in os.environ:
            print("RuntimeError: Connection closed by peer [127.0.0.1]:40000", flush=True)
            sys.exit(int(os.environ["FAKE_EXIT_AFTERWARDS"]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--save-dir")
    for name in ("max-update", "save-interval-updates", "keep-interval-updates", "log-interval"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--distributed-rank", type=int, default=0)
    options, _ = parser.parse_known_args()
    record(arguments=sys.argv[1:], environment=dict(os.environ), pid=os.getpid())
    FakeTrainer(options).run()


if __name__ == "__main__":
    main()
