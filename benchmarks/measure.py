"""Wall time and peak memory of whole processes. Standard library only, for a reason: see below.

A child's ru_maxrss starts from the size of the process that spawned it, so every command is started by a small
process of its own (this file, run as a program) and not by the benchmark with its arrays.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Samples:
    """Of one contender, one entry per round. peak_rss: bytes resident, private and mapped file pages alike."""

    seconds: list[float] = field(default_factory=list)
    peak_rss: list[int] = field(default_factory=list)

    def summary(self) -> dict:
        """Minimum, median and maximum in seconds; the largest peak in bytes."""
        return {
            "seconds": {
                "min": min(self.seconds),
                "median": statistics.median(self.seconds),
                "max": max(self.seconds),
                "rounds": len(self.seconds),
            },
            "peak_rss": max(self.peak_rss),
        }


def run_once(*commands: list[str], environment: dict[str, str] | None = None) -> tuple[float, int]:
    """Seconds of the commands one after the other, and the largest peak. Raises RuntimeError if one fails."""
    seconds, peak = 0.0, 0
    for command in commands:
        launched = subprocess.run(
            [sys.executable, "-I", "-S", __file__, *map(str, command)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        if launched.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))}\n{launched.stdout}{launched.stderr}")
        result = json.loads(launched.stdout.rsplit("\n", 2)[-2])
        seconds += result["seconds"]
        peak = max(peak, result["peak_rss"])
    return seconds, peak


def warm(directory: Path) -> None:
    """Brings every file of directory into the page cache."""
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.read(1 << 24):
                    pass


def machine() -> dict:
    """What a figure needs beside it."""
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        os.uname().machine,
    )
    return {
        "cpu": cpu,
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": os.uname().release,
        "python": sys.version.split()[0],
        "load": os.getloadavg()[0],
    }


def launch(command: list[str]) -> int:
    """Runs command and prints its seconds and peak as JSON, on a line of their own. Returns its exit code."""
    start = time.perf_counter()
    process = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(process, 0)
    seconds = time.perf_counter() - start
    print("\n" + json.dumps({"seconds": seconds, "peak_rss": usage.ru_maxrss * 1024}))
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(launch(sys.argv[1:]) != 0)
