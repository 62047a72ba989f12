"""Kills a run at random moments, again and again, goes on with the documented commands, and compares the end.

    python -m tests.workflow.faults.kill_moments --times 24 --seed 1 --folder /scratch/kills

A trial is one run of the small experiment (small.yaml) that is interrupted several times, in the order of
its stages; what it ends with is compared with a run nobody interrupted. Everything is real: Snakemake, the
commands, fairseq, in one or two processes. It prints a table, and writes a JSON line for each moment into
moments.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.workflow.faults.experiment import Experiment
from tests.workflow.faults.processes import Process, send, wait_until

# stage → commands one of which is running then; a training stage → the system
STAGES: dict[str, tuple[str, ...]] = {
    "data": ("corpus", "vocabulary", "binarize"),
    "train baseline": ("baseline",),
    "masks": ("activations", "masks", "overlap"),
    "train ns": ("ns",),
    "scores": ("translate", "score", "tables", "compare", "report"),
}
# training is most of a run, and what there is to lose
WEIGHTS = {"data": 1, "train baseline": 4, "masks": 1, "train ns": 4, "scores": 2}

# who is hit: one or all processes of the trainer, the command that started it, Snakemake, everything at once
TRAINING_VICTIMS = ("trainer", "trainers", "wrapper", "snakemake", "everything")
OTHER_VICTIMS = ("job", "snakemake", "everything")
# SIGKILL has no mercy; SIGTERM is what a scheduler sends first; SIGINT goes to all of a terminal: Ctrl-C
SIGNALS = {signal.SIGKILL: 6, signal.SIGTERM: 1, signal.SIGINT: 1}

# of small.yaml: updates, and every how many they are saved
UPDATES = {"baseline": (80, 8), "ns": (60, 6)}
END_SECONDS = 900.0


@dataclass
class Moment:
    """One interruption: what was planned, what it met, and what it took to go on."""

    trial: int
    stage: str
    victim: str
    signal: str
    running: list[str] = field(default_factory=list)
    hit: list[str] = field(default_factory=list)
    starts: int | None = None
    update: int | None = None
    redone: int | None = None
    next_commands: list[str] = field(default_factory=list)


def draw_moments(generator: random.Random, trial: int, count: int) -> list[Moment]:
    """Draw the interruptions of one trial, in the order of the stages."""
    order = list(STAGES)
    stages = sorted(
        generator.choices(order, weights=[WEIGHTS[stage] for stage in order], k=count), key=order.index
    )
    moments = []
    for stage in stages:
        victim = generator.choice(TRAINING_VICTIMS if stage.startswith("train") else OTHER_VICTIMS)
        (number,) = generator.choices(list(SIGNALS), weights=list(SIGNALS.values()))
        victim = "terminal" if number == signal.SIGINT else victim
        moments.append(Moment(trial, stage, victim, number.name))
    return moments


# ---- waiting for a moment ----


def await_moment(
    run: Experiment, main: subprocess.Popen[bytes], moment: Moment, generator: random.Random
) -> bool:
    """Wait until the stage runs, then for a random moment of it; False if the run ended before."""
    names = STAGES[moment.stage]
    training = moment.stage.startswith("train")

    def begun() -> bool:
        if main.poll() is not None:
            return True
        if training:
            return any(process.system in names for process in run.processes("wrapper"))
        return bool(run.processes(*wanted))

    wanted = (generator.choice(names),) if moment.stage != "scores" else names
    wait_until(begun, END_SECONDS, f"{moment.stage} starts")
    if not training:
        time.sleep(generator.uniform(0, 3))
    elif generator.random() < 0.25:
        time.sleep(generator.uniform(0, 8))  # while it starts
    else:
        _await_update(run, main, names[0], generator)
    return main.poll() is None


def _await_update(
    run: Experiment, main: subprocess.Popen[bytes], system: str, generator: random.Random
) -> None:
    """Wait for a random update that is not made yet, and up to two more's time."""
    limit, _ = UPDATES[system]
    (begun,) = [last for _, last in run.starts(system)[-1:]] or [0]
    update = generator.randint(min(begun, limit - 1), limit)
    wait_until(
        lambda: (
            main.poll() is not None
            or max((last for _, last in run.starts(system)), default=0) >= update
            or not run.processes("wrapper")
        ),
        END_SECONDS,
        f"update {update} of {system}",
        every=0.01,
    )
    time.sleep(generator.uniform(0, 0.4))


# ---- the fault ----


def strike(run: Experiment, main: subprocess.Popen[bytes], moment: Moment, generator: random.Random) -> None:
    """Send the signal to the victims, and wait for what ends of it."""
    living = run.processes()
    number = signal.Signals[moment.signal]
    if moment.victim == "terminal":
        victims = [process for process in living if group_of(process) == main.pid]
    else:
        victims = choose(living, moment.victim, generator)
    # what was meant has just ended: then Snakemake itself
    victims = victims or [process for process in living if process.pid == main.pid]
    if moment.stage.startswith("train"):
        moment.starts = len(run.starts(STAGES[moment.stage][0]))
    moment.running = sorted(
        {str(process) for process in living if process.kind not in ("shell", "snakemake")}
    )
    moment.hit = [str(process) for process in victims]
    send(victims, number)
    main.wait(END_SECONDS)  # one that was not killed notices, lets other jobs end, and ends


def group_of(process: Process) -> int | None:
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return None


def choose(living: list[Process], victim: str, generator: random.Random) -> list[Process]:
    """The processes a fault hits; empty where there is none of the kind any more."""
    trainers = [process for process in living if process.kind == "trainer"]
    if victim == "trainer":
        return generator.sample(trainers, min(1, len(trainers)))
    if victim == "trainers":
        return trainers
    if victim == "everything":
        return living
    if victim == "job":
        jobs = [one for one in living if one.kind not in ("shell", "snakemake", "wrapper", "trainer")]
        return generator.sample(jobs, min(1, len(jobs)))
    return [process for process in living if process.kind == victim]


# ---- going on ----


def answer(run: Experiment, moment: Moment, text: str) -> bool:
    """Do what a failed command said; False if it said nothing of the kind."""
    if "LockException" in text:
        moment.next_commands.append("snakemake --unlock")
        return run.run("--unlock").status == 0
    if "is being trained already" in text:
        moment.next_commands.append("kill (the processes it names)")
        send(run.processes("wrapper", "trainer"), signal.SIGTERM)
        wait_until(lambda: not run.processes("wrapper", "trainer"), 120, "the old trainer ends")
        return True
    return False


def one_trial(run: Experiment, moments: list[Moment], generator: random.Random) -> str | None:
    """Run to the end with all interruptions; return what the command said if it could not be gone on from."""
    waiting, past = list(moments), None
    for number in range(8 * (len(moments) + 1)):
        waiting = [moment for moment in waiting if not is_over(run, moment)]
        output = run.folder / f"snakemake.{number}.txt"
        main = run.start(output=output)
        if past is not None:
            past.next_commands.append("snakemake --cores all")
        if waiting and await_moment(run, main, waiting[0], generator):
            past = waiting.pop(0)
            strike(run, main, past, generator)
            print(
                f"  {past.signal} to {', '.join(past.hit)} while {', '.join(past.running) or 'nothing'} ran",
                flush=True,
            )
            continue
        status, text = main.wait(END_SECONDS), output.read_text(encoding="utf-8", errors="replace")
        if status == 0:
            return None
        if past is None or not answer(run, past, text):
            return text
    return "it does not end"


def is_over(run: Experiment, moment: Moment) -> bool:
    """Whether the training that a moment is to be of has ended: it is not interrupted then."""
    system = STAGES[moment.stage][0]
    return moment.stage.startswith("train") and (run.results / f"training/{system}/model.json").exists()


def judge(run: Experiment, expected: dict[str, object]) -> list[str]:
    """What differs from the run nobody interrupted, and what was trained more than once for no reason."""
    made = outcome(run)
    problems = [
        f"{name} {'differs' if name in made else 'is missing'}"
        for name in expected
        if made.get(name) != expected[name]
    ]
    problems += [f"{name} is in no uninterrupted run" for name in made if name not in expected]
    for system, (_, interval) in UPDATES.items():
        if max(run.redone(system), default=0) > interval:
            problems.append(f"{system}: {run.redone(system)} updates were made again, saved every {interval}")
    return problems + [f"{name} was left behind" for name in run.leftovers()]


def outcome(run: Experiment) -> dict[str, object]:
    """What two runs are compared by."""
    return {**run.fingerprints(), **{f"losses of {system}": run.losses(system) for system in UPDATES}}


def reference(folder: Path) -> dict[str, object]:
    """What a run that nobody interrupts ends with; made once a folder."""
    run = Experiment(folder / "uninterrupted").prepare()
    done = run.run()
    assert done.status == 0, done.output
    return outcome(run)


def table(moments: list[Moment]) -> str:
    """Interruptions by stage and victim."""
    rows = Counter((moment.stage, moment.signal, moment.victim) for moment in moments)
    lines = [
        f"{stage:16} {number:8} {victim:12} {count:3}"
        for (stage, number, victim), count in sorted(rows.items())
    ]
    made = [moment for moment in moments if moment.stage.startswith("train")]
    again = [moment.redone for moment in made if moment.redone is not None]
    return "\n".join(
        [
            *lines,
            f"{len(moments)} interruptions, {len(made)} of them while training",
            f"updates made again after {len(again)} of these: at most {max(again, default=0)}"
            f" ({sum(again) / max(1, len(again)):.1f} on average)",
            *(
                f"{count:3} × {what}"
                for what, count in Counter(" → ".join(m.next_commands) for m in moments).most_common()
            ),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=24, help="interruptions in all")
    parser.add_argument("--per-trial", type=int, default=6, help="interruptions of one run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, required=True, help="where it runs; kept")
    options = parser.parse_args()
    sys.exit(0 if run_trials(options.folder, options.times, options.per_trial, options.seed) else 1)


def run_trials(folder: Path, times: int, per_trial: int, seed: int) -> bool:
    """Interrupt ``times`` times in all; True if every run ended as it should."""
    generator, done, good, number = random.Random(seed), list[Moment](), True, 0
    expected = reference(folder)
    while len(done) < times:
        run = Experiment(folder / f"trial-{seed}-{number}").prepare()
        moments = draw_moments(generator, number, min(per_trial, times - len(done)))
        print(f"trial {number}: {', '.join(moment.stage for moment in moments)}", flush=True)
        try:
            failure = one_trial(run, moments, generator)
        finally:
            run.end()
        note_redone(run, moments)
        struck = [moment for moment in moments if moment.hit]
        done += struck
        problems = (
            judge(run, expected) if failure is None else [f"it could not be gone on:\n{failure[-4000:]}"]
        )
        good = good and not problems
        with (folder / "moments.jsonl").open("a", encoding="utf-8") as handle:
            handle.writelines(json.dumps({"seed": seed, **asdict(moment)}) + "\n" for moment in struck)
        print(
            "\n".join(f"  {problem}" for problem in problems) or "  as a run nobody interrupted", flush=True
        )
        number += 1
    print(table(done), flush=True)
    return good


def note_redone(run: Experiment, moments: list[Moment]) -> None:
    """Write into each interruption of a training what was made again after it."""
    for system in UPDATES:
        starts = run.starts(system)
        for moment in moments:
            if moment.starts is None or moment.stage != f"train {system}" or not moment.hit:
                continue
            if 0 < moment.starts < len(starts):
                moment.update = starts[moment.starts - 1][1]
                moment.redone = max(0, moment.update - starts[moment.starts][0])


if __name__ == "__main__":
    main()
