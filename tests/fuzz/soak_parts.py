"""What soak.py can work on: each parser, the native code, each type, each kind of crash, as commands for some seconds.

A worker counts in the tally that FASTCONV_TALLY names, or prints its counts; it ends with 0 where nothing was found.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

PROGRAMS = "tests/fuzz/native"
CAMPAIGNS = {"faults": 100, "resumed": 50, "signals": 50, "sizes": 25}  # of a slice


@dataclass(frozen=True)
class Part:
    """command: what works on it for so many seconds. counts: of what it printed; None: it has a tally."""

    name: str
    command: Callable[[float], list[str]]
    counts: Callable[[str], int] | None = None


def all_parts(work: Path, build: Path) -> list[Part]:
    types = type_parts(build / "isas" / PROGRAMS / "compare_isas")
    engine = engine_part(work, build / "fuzz" / PROGRAMS / "fuzz_engine")
    return [*types, engine, *parser_parts(work), *crash_parts()]


def parser_parts(work: Path) -> Iterator[Part]:
    from tests.fuzz.parsers import TARGETS

    def command(target: str, seconds: float) -> list[str]:
        # Other work may keep a core from an input: soak.py runs those that took too long alone.
        options = [f"-max_total_time={seconds:.0f}", "-timeout=60", f"-artifact_prefix={work / 'findings'}/{target}-"]
        return [sys.executable, "-m", "tests.fuzz.fuzz_parsers", target, str(work / "corpus" / target), *options]

    for target in TARGETS:
        yield Part(f"parser {target}", partial(command, target))


def engine_part(work: Path, program: Path) -> Part:
    guided = b"libFuzzer" in program.read_bytes()
    corpus = work / "corpus" / "engine"
    corpus.mkdir(parents=True, exist_ok=True)

    def command(seconds: float) -> list[str]:
        if not guided:
            return [str(program), f"{seconds:.0f}", str(random.getrandbits(63))]
        # Not guided by how often branches are taken, nor by how rarely: keeping count takes longer than the inputs do.
        options = ["-entropic=0", "-use_counters=0", "-max_len=600", "-timeout=300", "-rss_limit_mb=4096", "-reload=0"]
        options += [f"-max_total_time={seconds:.0f}", f"-artifact_prefix={work / 'findings'}/engine-"]
        return [str(program), str(corpus), *options]

    return Part("engine", command)


def type_parts(program: Path) -> Iterator[Part]:
    def command(name: str, seconds: float) -> list[str]:
        return [str(program), f"{seconds:.2f}", str(random.getrandbits(63)), name]

    told = subprocess.run([str(program), "0", "1"], capture_output=True, text=True, check=True).stdout
    for name in (line.split()[0] for line in told.splitlines()):
        yield Part(f"blocks {name}", partial(command, name))


def crash_parts() -> Iterator[Part]:
    def command(campaign: str, _: float) -> list[str]:
        counts = [f"--{other}={n if other == campaign else 0}" for other, n in CAMPAIGNS.items()]
        return [sys.executable, "-m", "tests.crash.soak", *counts, f"--seed={random.getrandbits(31)}"]

    for campaign in CAMPAIGNS:
        yield Part(campaign, partial(command, campaign), partial(crashes_in, campaign))


def crashes_in(campaign: str, told: str) -> int:
    counts = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    what = "faults" if campaign == "resumed" else campaign
    return sum(count[what] for count in counts if count["campaign"] == campaign)
