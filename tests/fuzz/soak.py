"""The long runs behind docs/trust.md: fuzzers, instruction sets, crashes. python -m tests.fuzz.soak --help.

Every core works on slices of minutes, each of one part. Counts add up over any number of runs, however they end: by
Ctrl-C, SIGTERM or kill -9. A part that has reached its goal is left out, one with a finding for the rest of the run.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.figures import GOALS, ROOT, TALLY, Figures, goal, take_tally, write_document
from tests.fuzz.soak_parts import Part, all_parts

SHORTEST_SLICE = 10.0  # seconds; also for what has no rate yet
TIMED_OUT = 70  # libFuzzer's exit code
SANITIZERS = "detect_leaks=1:allocator_may_return_null=1:malloc_context_size=8:quarantine_size_mb=32"


@dataclass
class Slice:
    part: Part
    process: subprocess.Popen[bytes]
    tally: Path
    log: Path


@dataclass
class Soak:
    """first: parts that come before others. nearest_first: what reaches its goal soonest, not what is furthest from it.

    work: corpora, tallies, logs, and inputs that are findings.
    """

    figures: Figures
    parts: list[Part]
    work: Path
    slice_seconds: float = 300
    nearest_first: bool = False
    first: frozenset[str] = frozenset()
    left_out: set[str] = field(default_factory=set)
    running: list[Slice | None] = field(default_factory=list)

    def run(self, seconds: float, n_jobs: int, stopped: Callable[[], bool] = lambda: False) -> None:
        for folder in ("tallies", "logs", "findings"):
            (self.work / folder).mkdir(parents=True, exist_ok=True)
        for tally in (self.work / "tallies").iterdir():  # of a run that was killed
            self.figures.add(tally.stem, take_tally(tally))
        deadline = time.monotonic() + seconds
        self.running = [None] * n_jobs
        while not stopped() and time.monotonic() < deadline:
            for slot, current in enumerate(self.running):
                if current is not None and self.settle(current, waits=False):
                    self.running[slot] = None
                if self.running[slot] is None and (part := self.next()) is not None:
                    self.running[slot] = self.start(slot, part, deadline - time.monotonic())
            if not any(self.running):
                return
            time.sleep(0.2)
        current_slices = [current for current in self.running if current is not None]
        for current in current_slices:
            os.kill(current.process.pid, signal.SIGTERM)
        for current in current_slices:
            self.settle(current, waits=True)

    def seconds_left(self, part: Part) -> float | None:
        return self.figures.seconds(part.name, goal(part.name) - self.figures.done.get(part.name, 0))

    def next(self) -> Part | None:
        """None where every goal is reached; one that runs already where no other is left."""
        running = {current.part.name for current in self.running if current}

        def order(part: Part) -> tuple[bool, bool, float]:
            far = (self.seconds_left(part) or 0) if self.nearest_first else self.figures.share(part.name)
            return part.name in running, part.name not in self.first, far

        wanted = (part for part in self.parts if self.figures.share(part.name) < 1 and part.name not in self.left_out)
        return min(wanted, key=order, default=None)

    def start(self, slot: int, part: Part, most_seconds: float) -> Slice:
        left = self.seconds_left(part)
        seconds = SHORTEST_SLICE if left is None else max(1.2 * left, SHORTEST_SLICE)
        seconds = max(min(seconds, self.slice_seconds, most_seconds), 1)
        tally, log = (self.work / folder / f"{part.name}.{slot}" for folder in ("tallies", "logs"))
        path = os.pathsep.join([str(ROOT), *(entry for entry in sys.path if entry)])
        environment = os.environ | {"PYTHONPATH": path, "ASAN_OPTIONS": SANITIZERS, TALLY: str(tally)}
        with log.open("wb") as to:
            # A session of its own: Ctrl-C ends this process, which then ends the others.
            process = subprocess.Popen(
                part.command(seconds), cwd=self.work, env=environment, stdout=to, stderr=to, start_new_session=True
            )
        return Slice(part, process, tally, log)

    def settle(self, current: Slice, waits: bool) -> bool:
        """Whether it has ended; then what it did is added. waits: for its end, which was asked for."""
        pid, status, usage = os.wait4(current.process.pid, 0 if waits else os.WNOHANG)
        if pid == 0:
            return False
        code = current.process.returncode = os.waitstatus_to_exitcode(status)
        name, told = current.part.name, current.log.read_text(errors="replace")
        count = take_tally(current.tally) if current.part.counts is None else current.part.counts(told)
        self.figures.add(name, count, usage.ru_utime + usage.ru_stime)
        print(f"{name}: {count:,} more, {self.figures.done[name]:,} of {goal(name):,}", flush=True)
        if waits or (code == 0 and count > 0) or (code == TIMED_OUT and self.ends_alone(current.part, told)):
            return True
        self.left_out.add(name)
        self.figures.find(f"{name}: {last_line(told)}")
        print(self.figures.findings[-1], flush=True)
        return True

    def ends_alone(self, part: Part, told: str) -> bool:
        """Whether an input that took too long did so because other work had the core."""
        slow = told.partition("Test unit written to ")[2].partition("\n")[0]
        corpus = str(self.work / "corpus")
        command = [slow if word.startswith(corpus) else word for word in part.command(600)]
        return subprocess.run(command, cwd=self.work, capture_output=True).returncode == 0


def last_line(told: str) -> str:
    lines = [line for line in told.splitlines() if line.strip()]
    telling = [line for line in lines if "ERROR" in line or "finding" in line or "DIFFERS" in line or "Error:" in line]
    return (telling or lines or ["ended without a word"])[-1][:300]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--slice", type=float, default=300, help="seconds of a slice (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="slices at a time (default: %(default)s)")
    parser.add_argument("--parts", default=",".join(GOALS), help="parts, or kinds of them (default: %(default)s)")
    parser.add_argument("--first", default="", help="parts that come before the others")
    parser.add_argument("--nearest-first", action="store_true", help="not what is furthest from its goal")
    parser.add_argument("--report", action="store_true", help="only write docs/trust.md")
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="with the programs of make fuzzers")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "soak", help="corpora, tallies, logs, findings")
    parser.add_argument("--figures", type=Path, default=ROOT / "docs" / "soak.json")
    arguments = parser.parse_args()
    figures = Figures.read(arguments.figures)
    if not arguments.report:
        work, wanted = arguments.work.resolve(), arguments.parts.split(",")
        parts = [
            part
            for part in all_parts(work, arguments.build.resolve())
            if part.name in wanted or part.name.split()[0] in wanted
        ]
        signals: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: signals.append(number))
        first = frozenset(arguments.first.split(","))
        soak = Soak(figures, parts, work, arguments.slice, arguments.nearest_first, first)
        soak.run(60 * arguments.minutes, arguments.jobs, lambda: bool(signals))
    write_document(figures)
    sys.exit(bool(figures.findings))


if __name__ == "__main__":
    main()
