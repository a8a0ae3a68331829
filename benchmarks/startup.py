"""How long does `fastconv --help` take? Whole process, median of many; the mark is 0.4 s."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from contenders import HERE
from measure import Samples, machine, run_once


def main() -> None:
    """Write results/startup.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--python", type=Path, default=sys.executable, help="an interpreter with fastconv alone")
    parser.add_argument("--rounds", type=int, default=21)
    arguments = parser.parse_args()
    result: dict = {"machine": machine(), "commands": {}}
    for options in ("--help", "convert --help"):
        samples = Samples()
        for _ in range(arguments.rounds):
            seconds, peak = run_once([arguments.python, "-m", "fastconv", *options.split()])
            samples.seconds.append(seconds)
            samples.peak_rss.append(peak)
        result["commands"][f"fastconv {options}"] = samples.summary()
        print(f"fastconv {options:16} {samples.summary()['seconds']['median']:.3f} s")
    (arguments.results / "startup.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
