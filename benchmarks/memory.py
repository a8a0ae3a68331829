"""Does the peak stay flat when the model grows fourfold?

ru_maxrss of the whole process: private memory and mapped file pages alike. The larger model has four times the layers.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from contenders import HERE, Bench, Case
from measure import Samples, machine, run_once, warm
from models import TINY, Shape, make_adapter, make_model

MEMORY_CASES = [Case("q4_0"), Case("f16"), Case("q4_0", lora=True)]


def main() -> None:
    """Write results/memory.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("build/benchmark"), help="models and outputs; 20 GB")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--python", type=Path, default=sys.executable, help="an interpreter with fastconv alone")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()

    small, name = (TINY, "tiny") if arguments.tiny else (Shape(), "1.1b")
    cases: dict[str, dict] = {}
    for factor in (1, 4):
        shape = replace(small, n_layer=small.n_layer * factor)
        suffix = name if factor == 1 else f"{name}-x{factor}"
        bench = Bench(
            model=make_model(arguments.directory / f"model-{suffix}", shape),
            adapter=make_adapter(arguments.directory / f"adapter-{suffix}", shape),
            scratch=arguments.directory,
            python=arguments.python,
            threads=arguments.threads,
        )
        warm(bench.model)
        for case in MEMORY_CASES:
            samples = Samples()
            for _ in range(arguments.rounds):
                outfile = bench.scratch / "out.gguf"
                seconds, peak = run_once(*bench.fastconv_commands(case, outfile))
                outfile.unlink()
                samples.seconds.append(seconds)
                samples.peak_rss.append(peak)
            cases.setdefault(case.name, {})[f"{factor}x"] = samples.summary()
            print(f"{factor}x {case.name:14} {max(samples.peak_rss) / 1e6:6.0f} MB {min(samples.seconds):6.2f} s")
    result = {"machine": machine(), "threads": arguments.threads, "cases": cases}
    (arguments.results / "memory.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
