"""The long runs behind docs/trust.md: fuzzers, instruction sets, crashes. python -m tests.fuzz.soak --help.

Each part works for its share of the time and adds what it did to a file of figures, so that many short runs make one
long one; a part that has reached its goal is left out. The figures stand in docs/trust.md, between two marks.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "trust.md"
BEGIN, END = "<!-- soak: written by make soak -->\n", "<!-- /soak -->\n"

PARSER_INPUTS, ENGINE_INPUTS, BLOCKS = 10_000_000, 50_000_000, 1_000_000_000
# Numbers of things done, and the goals of one run of tests/crash/soak.py at full length.
CAMPAIGNS = {"faults": 5000, "signals": 1000, "sizes": 500}


@dataclass
class Figures:
    """done: counts by part ("parser gguf"), of inputs, blocks, faults, kills or sizes. findings: what went wrong."""

    file: Path
    done: dict[str, int] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, file: Path) -> Figures:
        stored: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        return cls(file, stored.get("done", {}), stored.get("findings", []))

    def add(self, part: str, count: int) -> None:
        self.done[part] = self.done.get(part, 0) + count
        self.write()

    def find(self, finding: str) -> None:
        self.findings.append(finding)
        self.write()

    def write(self) -> None:
        told = {"date": datetime.date.today().isoformat(), "machine": machine(), "commit": commit()}
        told |= {"done": dict(sorted(self.done.items())), "findings": self.findings}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(told, indent=1) + "\n")


def machine() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return f"{found[1] if found else platform.machine()}, {os.cpu_count()} cores"


def commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()


def run(command: list[str], cwd: Path) -> tuple[str, int]:
    """Everything it printed, and its exit code."""
    cwd.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join([str(ROOT), *(entry for entry in sys.path if entry)])
    environment = os.environ | {"PYTHONPATH": path, "ASAN_OPTIONS": "detect_leaks=1:allocator_may_return_null=1"}
    told = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, errors="replace")
    return told.stdout + told.stderr, told.returncode


def fuzz_parsers(figures: Figures, seconds: float, work: Path) -> None:
    from tests.fuzz.parsers import TARGETS

    for target in TARGETS:
        if figures.done.get(f"parser {target}", 0) >= PARSER_INPUTS:
            continue
        limit = f"-max_total_time={max(int(seconds / len(TARGETS)), 1)}"
        command = [sys.executable, "-m", "tests.fuzz.fuzz_parsers", target, str(work / "corpus" / target), limit]
        told, code = run(command, work / "findings")
        figures.add(f"parser {target}", inputs_in(told))
        if code:
            figures.find(f"parser {target}: {last_line(told)}")


def fuzz_engine(figures: Figures, seconds: float, work: Path, program: Path) -> None:
    if figures.done.get("engine", 0) >= ENGINE_INPUTS or not program.exists():
        return
    guided = b"libFuzzer" in program.read_bytes()
    corpus = work / "corpus" / "engine"
    corpus.mkdir(parents=True, exist_ok=True)
    options = [f"-max_total_time={int(seconds)}", "-timeout=60", "-rss_limit_mb=4096", str(corpus)]
    told, code = run([str(program), *(options if guided else [str(seconds), str(figures.done.get("engine", 1))])], work)
    figures.add("engine", inputs_in(told))
    if code:
        figures.find(f"engine: {last_line(told)}")


def compare_isas(figures: Figures, seconds: float, work: Path, program: Path) -> None:
    """Slow types get no more time than others: what they reached is what stands there."""
    if not program.exists():
        return
    told, _ = run([str(program), "0", "1"], work)
    names = [line.split()[0] for line in told.splitlines() if not line.startswith("DIFFERS")]
    left = [name for name in names if figures.done.get(f"blocks {name}", 0) < BLOCKS]
    for name in left:
        seed = str(figures.done.get(f"blocks {name}", 0) + 1)
        told, code = run([str(program), f"{seconds / len(left):.2f}", seed, name], work)
        for line in told.splitlines():
            words = line.split()
            if words[0] == name:
                figures.add(f"blocks {name}", int(words[1]) or int(words[2]))
        if code:
            figures.find(f"instruction sets: {last_line(told)}")


def crash(figures: Figures, work: Path) -> None:
    for campaign, goal in CAMPAIGNS.items():
        if figures.done.get(campaign, 0) >= goal:
            continue
        others = [f"--{other}=0" for other in CAMPAIGNS if other != campaign]
        told, code = run([sys.executable, "-m", "tests.crash.soak", *others], work)
        for line in told.splitlines():
            if line.startswith("{"):
                counts = json.loads(line)
                figures.add(campaign, counts[campaign])
        if code:
            figures.find(f"{campaign}: {last_line(told)}")


def inputs_in(told: str) -> int:
    """What libFuzzer says it ran; of a run cut short, the last number it printed."""
    numbers = re.findall(r"(?:Done |^#)(\d+)", told, re.MULTILINE)
    return int(numbers[-1]) if numbers else 0


def last_line(told: str) -> str:
    lines = [line for line in told.splitlines() if line.strip()]
    telling = [line for line in lines if "ERROR" in line or "finding" in line or "DIFFERS" in line or "Error:" in line]
    return (telling or lines or ["ended without a word"])[-1][:300]


def table(figures: Figures) -> Iterator[str]:
    yield f"State of {datetime.date.today().isoformat()}, commit {commit()}, on {machine()}, summed over all runs.\n\n"
    yield "| what | done | goal |\n|---|--:|--:|\n"
    goals = {"parser": PARSER_INPUTS, "engine": ENGINE_INPUTS, "blocks": BLOCKS, **CAMPAIGNS}
    words = {
        "parser": "inputs through the parser of {}",
        "engine": "inputs through the native code, under AddressSanitizer and UBSan",
        "blocks": "blocks of {} through every instruction set",
        "faults": "injected faults",
        "signals": "kills at random moments",
        "sizes": "sizes of a full disk",
    }
    for part, count in sorted(figures.done.items(), key=lambda item: (list(goals).index(item[0].split()[0]), item[0])):
        kind, _, name = part.partition(" ")
        yield f"| {words[kind].format(f'`{name}`')} | {count:,} | {goals[kind]:,} |\n"
    yield f"\nFindings that these runs made: {len(figures.findings)}.\n"
    yield from (f"- {finding.replace('|', '/')}\n" for finding in figures.findings)


def write_document(figures: Figures) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    DOCUMENT.write_text(head + BEGIN + "\n" + "".join(table(figures)) + "\n" + END + tail, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="for the fuzzers and the instruction sets together")
    parser.add_argument("--parts", default="isas,engine,parsers,crash", help="which of these, in order")
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="with the programs of make fuzzers")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "soak", help="corpus and findings")
    parser.add_argument("--figures", type=Path, default=ROOT / "docs" / "soak.json")
    arguments = parser.parse_args()
    figures = Figures.read(arguments.figures)
    parts = arguments.parts.split(",")
    seconds = 60 * arguments.minutes / max(len([part for part in parts if part != "crash"]), 1)
    work: Path = arguments.work.resolve()
    programs = "tests/fuzz/native"
    for part in parts:
        if part == "isas":
            compare_isas(figures, seconds, work, arguments.build.resolve() / "isas" / programs / "compare_isas")
        elif part == "engine":
            fuzz_engine(figures, seconds, work, arguments.build.resolve() / "fuzz" / programs / "fuzz_engine")
        elif part == "parsers":
            fuzz_parsers(figures, seconds, work)
        else:
            crash(figures, work)
    write_document(figures)
    sys.exit(bool(figures.findings))


if __name__ == "__main__":
    main()
