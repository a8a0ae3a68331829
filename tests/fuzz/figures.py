"""What the long runs did so far: counts that outlive runs, and their table in docs/trust.md.

A worker counts in a tally, eight bytes of a mapped file, so that nothing is lost however it ends; soak.py adds them up.
"""

from __future__ import annotations

import datetime
import json
import mmap
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "trust.md"
BEGIN, END = "<!-- soak: written by make soak -->\n", "<!-- /soak -->\n"
TALLY = "FASTCONV_TALLY"  # names a worker's tally; tests/fuzz/native/tally.hpp reads it too

# By kind of part: how many are asked for, and what one part is called.
GOALS = {
    "parser": (10_000_000, "inputs through the parser of `{}`"),
    "engine": (50_000_000, "inputs through the native code, under AddressSanitizer and UBSan"),
    "blocks": (1_000_000_000, "blocks of `{}` through every instruction set"),
    "faults": (5_000, "injected faults"),
    "resumed": (1_000, "injected faults in runs that resume"),
    "signals": (1_000, "kills at random moments"),
    "sizes": (500, "sizes of a full disk"),
}


def goal(part: str) -> int:
    return GOALS[part.split()[0]][0]


def mapped_tally() -> memoryview:
    """Of one count, which the caller raises."""
    path = os.environ.get(TALLY)
    if path is None:
        return memoryview(bytearray(8)).cast("q")
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.ftruncate(fd, 8)
        return memoryview(mmap.mmap(fd, 8)).cast("q")
    finally:
        os.close(fd)


def take_tally(file: Path) -> int:
    """What it holds; it is gone then. Removed before it is used: a count is rather lost than added twice."""
    count = int.from_bytes(file.read_bytes()[:8], "little") if file.exists() else 0
    file.unlink(missing_ok=True)
    return count


@dataclass
class Figures:
    """done: counts by part ("parser gguf"), of inputs, blocks, faults, kills or sizes.

    findings: what went wrong and is not repaired yet. measured: by part, a count and the processor seconds it took.
    """

    file: Path
    done: dict[str, int] = field(default_factory=dict)
    measured: dict[str, tuple[int, float]] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, file: Path) -> Figures:
        stored: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        measured = {part: (count, seconds) for part, (count, seconds) in stored.get("measured", {}).items()}
        return cls(file, stored.get("done", {}), measured, stored.get("findings", []))

    def add(self, part: str, count: int, seconds: float = 0) -> None:
        """seconds: of the processor; 0: not measured."""
        self.done[part] = self.done.get(part, 0) + count
        if seconds:
            before = self.measured.get(part, (0, 0.0))
            self.measured[part] = (before[0] + count, round(before[1] + seconds, 1))
        self.write()

    def find(self, finding: str) -> None:
        self.findings.append(finding)
        self.write()

    def share(self, part: str) -> float:
        return self.done.get(part, 0) / goal(part)

    def seconds(self, part: str, count: int) -> float | None:
        """Of one core, for so many."""
        measured, spent = self.measured.get(part, (0, 0.0))
        return count * spent / measured if measured else None

    def write(self) -> None:
        told = {"date": datetime.date.today().isoformat(), "machine": machine(), "commit": commit()}
        told |= {"done": dict(sorted(self.done.items())), "measured": dict(sorted(self.measured.items()))}
        told["findings"] = self.findings
        self.file.parent.mkdir(parents=True, exist_ok=True)
        whole = self.file.with_suffix(".new")
        whole.write_text(json.dumps(told, indent=1) + "\n")
        whole.replace(self.file)


def machine() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return f"{found[1] if found else platform.machine()}, {os.cpu_count()} cores"


def commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def table(figures: Figures) -> Iterator[str]:
    yield f"State of {datetime.date.today().isoformat()}, commit {commit()}, on {machine()}, summed over all runs.\n"
    yield "Core hours: what a whole goal takes, by the processor time of these runs.\n\n"
    yield "| what | done | goal | core hours |\n|---|--:|--:|--:|\n"
    kinds = list(GOALS)
    hours = 0.0
    for part, count in sorted(figures.done.items(), key=lambda item: (kinds.index(item[0].split()[0]), item[0])):
        kind, _, name = part.partition(" ")
        whole = figures.seconds(part, goal(part))
        hours += (whole or 0) / 3600
        told = "" if whole is None else f"{whole / 3600:.2g}" if whole < 36000 else f"{whole / 3600:.0f}"
        yield f"| {GOALS[kind][1].format(name)} | {count:,} | {goal(part):,} | {told} |\n"
    reached = sum(figures.share(part) >= 1 for part in figures.done)
    yield f"\n{reached} of these {len(figures.done)} goals are reached; all at full length: {hours:.0f} core hours. "
    yield f"Findings that are not repaired: {len(figures.findings)}.\n"
    yield from (f"- {finding.replace('|', '/')}\n" for finding in figures.findings)


def write_document(figures: Figures) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    DOCUMENT.write_text(head + BEGIN + "\n" + "".join(table(figures)) + "\n" + END + tail, encoding="utf-8")
