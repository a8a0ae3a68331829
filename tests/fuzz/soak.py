"""The long runs behind docs/trust.md: fuzzers, instruction sets, crashes. python -m tests.fuzz.soak --help.

Every core works on slices of some minutes, each of one part: a parser, a type, a kind of crash. Counts add up over any
number of runs, however they end (Ctrl-C, SIGTERM and kill -9 too); a part that has reached its goal is left out.
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.figures import GOALS, ROOT, TALLY, Figures, goal, take_tally, write_document

PROGRAMS = "tests/fuzz/native"
CAMPAIGNS = {"faults": 100, "resumed": 50, "signals": 50, "sizes": 25}  # of a slice
SHORTEST_SLICE = 10.0  # seconds; also for what has no rate yet
TIMED_OUT = 70  # libFuzzer's exit code


@dataclass(frozen=True)
class Part:
    """command: what works on it for so many seconds. counts: from what it printed; None: it has a tally."""

    name: str
    command: Callable[[float], list[str]]
    counts: Callable[[str], int] | None = None


@dataclass
class Slice:
    part: Part
    process: subprocess.Popen[bytes]
    tally: Path
    log: Path


def parser_parts(work: Path) -> Iterator[Part]:
    from tests.fuzz.parsers import TARGETS

    def command(target: str, seconds: float) -> list[str]:
        # Other work may keep a core from this one: an input is slow that is so when it runs alone.
        options = [f"-max_total_time={seconds:.0f}", "-timeout=60", f"-artifact_prefix={work / 'findings'}/{target}-"]
        return [sys.executable, "-m", "tests.fuzz.fuzz_parsers", target, str(work / "corpus" / target), *options]

    for target in TARGETS:
        yield Part(f"parser {target}", lambda seconds, target=target: command(target, seconds))  # type: ignore[misc]


def engine_parts(work: Path, program: Path) -> Iterator[Part]:
    guided = b"libFuzzer" in program.read_bytes()
    corpus = work / "corpus" / "engine"
    corpus.mkdir(parents=True, exist_ok=True)

    def command(seconds: float) -> list[str]:
        if not guided:
            return [str(program), f"{seconds:.0f}", str(random.getrandbits(63))]
        # Without weights by rarity of what an input reaches: keeping them takes longer than the inputs.
        options = ["-entropic=0", "-max_len=600", "-timeout=300", "-rss_limit_mb=4096"]
        options += [f"-max_total_time={seconds:.0f}", f"-artifact_prefix={work / 'findings'}/engine-"]
        return [str(program), *options, str(corpus)]

    yield Part("engine", command)


def type_parts(program: Path) -> Iterator[Part]:
    told = subprocess.run([str(program), "0", "1"], capture_output=True, text=True, check=True).stdout

    def command(name: str, seconds: float) -> list[str]:
        return [str(program), f"{seconds:.2f}", str(random.getrandbits(63)), name]

    for name in (line.split()[0] for line in told.splitlines()):
        yield Part(f"blocks {name}", lambda seconds, name=name: command(name, seconds))  # type: ignore[misc]


def crash_parts() -> Iterator[Part]:
    def command(campaign: str) -> list[str]:
        counts = [f"--{other}={n if other == campaign else 0}" for other, n in CAMPAIGNS.items()]
        return [sys.executable, "-m", "tests.crash.soak", *counts, f"--seed={random.getrandbits(31)}"]

    def counts(campaign: str, told: str) -> int:
        lines = (json.loads(line) for line in told.splitlines() if line.startswith("{"))
        return sum(line.get(campaign, line.get("faults", 0)) for line in lines if line["campaign"] == campaign)

    for campaign in CAMPAIGNS:
        yield Part(
            campaign,
            lambda _, campaign=campaign: command(campaign),  # type: ignore[misc]
            lambda told, campaign=campaign: counts(campaign, told),  # type: ignore[misc]
        )


class Soak:
    def __init__(self, figures: Figures, parts: list[Part], work: Path, n_jobs: int, slice_seconds: float) -> None:
        """parts: in no order; next() chooses."""
        self.figures, self.parts, self.work, self.slice_seconds = figures, parts, work, slice_seconds
        self.first: set[str] = set()  # parts that come before others
        self.running: list[Slice | None] = [None] * n_jobs
        self.out: set[str] = set()  # parts that had a finding, or did nothing
        for folder in ("tallies", "logs", "findings"):
            (work / folder).mkdir(parents=True, exist_ok=True)
        for left in (work / "tallies").iterdir():
            figures.add(left.stem, take_tally(left))

    def run(self, deadline: float, nearest_first: bool, stopped: Callable[[], bool]) -> None:
        while not stopped() and time.monotonic() < deadline:
            for slot, current in enumerate(self.running):
                if current is not None:
                    self.running[slot] = self.settled(current)
                if self.running[slot] is None:
                    part = self.next(nearest_first)
                    self.running[slot] = self.start(slot, part, deadline) if part else None
            if not any(self.running):
                return
            time.sleep(0.2)
        for current in filter(None, self.running):
            os.kill(current.process.pid, signal.SIGTERM)
        for current in filter(None, self.running):
            self.settled(current, ended=True)

    def next(self, nearest_first: bool) -> Part | None:
        """The part furthest from its goal, or the one that will reach it first; none that runs, if there is another."""

        def order(part: Part) -> tuple[bool, bool, float]:
            left = self.figures.seconds(part.name, goal(part.name) - self.figures.done.get(part.name, 0))
            far = (left or 0) if nearest_first else self.figures.share(part.name)
            return part in running, part.name not in self.first, far

        running = [current.part for current in self.running if current]
        left = [part for part in self.parts if self.figures.share(part.name) < 1 and part.name not in self.out]
        return min(left, key=order, default=None)

    def start(self, slot: int, part: Part, deadline: float) -> Slice:
        left = self.figures.seconds(part.name, goal(part.name) - self.figures.done.get(part.name, 0))
        seconds = SHORTEST_SLICE if left is None else max(1.5 * left, SHORTEST_SLICE)
        seconds = max(min(seconds, self.slice_seconds, deadline - time.monotonic()), 1)
        tally, log = self.work / "tallies" / f"{part.name}.{slot}", self.work / "logs" / f"{part.name}.{slot}"
        path = os.pathsep.join([str(ROOT), *(entry for entry in sys.path if entry)])
        sanitizers = "detect_leaks=1:allocator_may_return_null=1:malloc_context_size=8:quarantine_size_mb=32"
        environment = os.environ | {"PYTHONPATH": path, "ASAN_OPTIONS": sanitizers, TALLY: str(tally)}
        with log.open("wb") as to:
            # A session of its own: Ctrl-C ends this process, which then ends the others.
            process = subprocess.Popen(
                part.command(seconds), cwd=self.work, env=environment, stdout=to, stderr=to, start_new_session=True
            )
        return Slice(part, process, tally, log)

    def settled(self, current: Slice, ended: bool = False) -> Slice | None:
        """The slice if it still runs; else its count is added."""
        pid, status, usage = os.wait4(current.process.pid, 0 if ended else os.WNOHANG)
        if pid == 0:
            return current
        code = current.process.returncode = os.waitstatus_to_exitcode(status)
        name, told = current.part.name, current.log.read_text(errors="replace")
        count = current.part.counts(told) if current.part.counts else take_tally(current.tally)
        self.figures.add(name, count, usage.ru_utime + usage.ru_stime)
        print(f"{name}: {count:,} more, {self.figures.done[name]:,} of {goal(name):,}", flush=True)
        if ended or (code == 0 and count > 0):
            return None
        if code == TIMED_OUT and self.passes_alone(current, told):
            return None
        self.out.add(name)
        self.figures.find(f"{name}: {last_line(told)}")
        print(self.figures.findings[-1], flush=True)
        return None

    def passes_alone(self, current: Slice, told: str) -> bool:
        """Whether an input that took too long did so because other work had the core."""
        artifact = told.partition("Test unit written to ")[2].partition("\n")[0]
        command = [word for word in current.part.command(0) if not word.startswith("-max_total_time")]
        command = [word for word in command if not word.startswith(str(self.work / "corpus"))]
        again = subprocess.run([*command, artifact], cwd=self.work, capture_output=True)
        return again.returncode == 0


def last_line(told: str) -> str:
    lines = [line for line in told.splitlines() if line.strip()]
    telling = [line for line in lines if "ERROR" in line or "finding" in line or "DIFFERS" in line or "Error:" in line]
    return (telling or lines or ["ended without a word"])[-1][:300]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--slice", type=float, default=120, help="seconds")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--parts", default=",".join(GOALS), help="kinds of parts, or parts (default: %(default)s)")
    parser.add_argument("--first", default="", help="parts that come before the others")
    parser.add_argument("--nearest-first", action="store_true", help="not what is furthest from its goal")
    parser.add_argument("--report", action="store_true", help="only write docs/trust.md")
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="with the programs of make fuzzers")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "soak", help="corpus, findings, tallies")
    parser.add_argument("--figures", type=Path, default=ROOT / "docs" / "soak.json")
    arguments = parser.parse_args()
    figures = Figures.read(arguments.figures)
    if not arguments.report:
        work, build = arguments.work.resolve(), arguments.build.resolve()
        every = [
            *type_parts(build / "isas" / PROGRAMS / "compare_isas"),
            *engine_parts(work, build / "fuzz" / PROGRAMS / "fuzz_engine"),
            *parser_parts(work),
            *crash_parts(),
        ]
        wanted = arguments.parts.split(",")
        parts = [part for part in every if part.name in wanted or part.name.split()[0] in wanted]
        signals: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: signals.append(number))
        soak = Soak(figures, parts, work, arguments.jobs, arguments.slice)
        soak.first = set(arguments.first.split(","))
        soak.run(time.monotonic() + 60 * arguments.minutes, arguments.nearest_first, lambda: bool(signals))
    write_document(figures)
    sys.exit(bool(figures.findings))


if __name__ == "__main__":
    main()
