"""How long does a whole conversion take, and how much memory does it hold, beside the floor and other tools?

Every output is checked before anything is timed. Contenders alternate within a round, the fast ones twice in a row, of
which the second counts; the figures are medians.
Peaks are ru_maxrss: private and mapped file pages alike. The input is in the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from contenders import CASES, HERE, Bench, Case, build_floor
from measure import Samples, machine, run_once, warm
from models import TINY, Shape, make_adapter, make_model


def tensors(path: Path) -> dict[str, tuple[str, np.ndarray]]:
    """Type and bytes of every tensor of a GGUF file."""
    return {t.name: (t.tensor_type.name, t.data.reshape(-1).view(np.uint8)) for t in gguf.GGUFReader(path).tensors}


def check_tensors(ours: Path, theirs: Path) -> str:
    """What was found equal. Raises ValueError if names, types or bytes differ."""
    a, b = tensors(ours), tensors(theirs)
    if {name: t for name, (t, _) in a.items()} != {name: t for name, (t, _) in b.items()}:
        raise ValueError(f"{ours.name} and {theirs.name} hold different tensors or types")
    different = [name for name in a if not np.array_equal(a[name][1], b[name][1])]
    if different:
        raise ValueError(f"{len(different)} tensors of {ours.name} differ from {theirs.name}: {different[0]} ...")
    return f"{len(a)} tensors, {sum(x.size for _, x in a.values())} bytes equal"


def same_file(ours: Path, theirs: Path) -> bool:
    """Byte for byte."""
    a, b = np.memmap(ours, np.uint8, "r"), np.memmap(theirs, np.uint8, "r")
    return a.size == b.size and bool(np.array_equal(a, b))


@dataclass
class Checked:
    """Output bytes, what was compared with whom, and what the runs of the others took, which are too long to repeat."""

    size: int
    compared: dict[str, str]
    samples: dict[str, Samples]


def check(bench: Bench, case: Case, *, numpy_path: bool) -> Checked:
    """Raises ValueError where an answer is wrong."""
    ours, theirs = bench.scratch / "checked.gguf", bench.scratch / "other.gguf"
    for path in (ours, theirs):
        path.unlink(missing_ok=True)
    run_once(*bench.fastconv_commands(case, ours))
    checked = Checked(ours.stat().st_size, {}, {})

    def run(name: str, commands: list[list[str]]) -> None:
        seconds, peak = run_once(*commands)
        checked.samples[name] = Samples([seconds], [peak])

    if numpy_path:
        run_once(*bench.numpy_commands(case, theirs, "--ordered"))
        checked.compared["NumPy"] = check_tensors(ours, theirs)
        theirs.unlink()
    if bench.llama_cpp:
        run("llama.cpp", bench.llama_cpp_commands(case, theirs))
        if not case.lora:
            check_tensors(ours, theirs)
            checked.compared["llama.cpp"] = "whole file equal" if same_file(ours, theirs) else "all tensors equal"
        theirs.unlink()
    ours.unlink()
    return checked


def measure_case(bench: Bench, case: Case, rounds: int, slow_rounds: int, *, numpy_path: bool) -> dict:
    """One case: checked, then timed."""
    checked = check(bench, case, numpy_path=numpy_path)
    print(f"{case.name}: {checked.size:,} bytes; {checked.compared}", flush=True)
    outfile = bench.scratch / "out.gguf"
    contenders: dict[str, tuple[int, Callable[[], list[list[str]]]]] = {
        "fastconv": (rounds, lambda: bench.fastconv_commands(case, outfile)),
        "fastconv --no-sync": (rounds, lambda: bench.fastconv_commands(case, outfile, "--no-sync")),
        "floor": (rounds, lambda: bench.floor_commands(checked.size, outfile, sync=False)),
        "floor, synced": (rounds, lambda: bench.floor_commands(checked.size, outfile, sync=True)),
    }
    if case.lora:
        contenders["fastconv without LoRA"] = (rounds, lambda: bench.fastconv_commands(Case(case.type), outfile))
    if numpy_path:
        contenders["NumPy"] = (slow_rounds, lambda: bench.numpy_commands(case, outfile))
        contenders["gguf.quants"] = (slow_rounds, lambda: bench.numpy_commands(case, outfile, "--quantizer", "gguf"))
    if bench.llama_cpp:
        contenders["llama.cpp"] = (slow_rounds, lambda: bench.llama_cpp_commands(case, outfile))

    samples = {name: checked.samples.get(name, Samples()) for name in contenders}
    for turn in range(max(n for n, _ in contenders.values())):
        for name, (n, commands) in contenders.items():
            if turn >= n or len(samples[name].seconds) >= n:
                continue
            warm(bench.model)
            # So that each finds memory as it left it: a virtual machine must ask for what it gave back.
            if n == rounds:
                run_once(*commands())
                outfile.unlink()
                os.sync()  # and nobody waits for what another left to the disk
            seconds, peak = run_once(*commands())
            outfile.unlink()
            samples[name].seconds.append(seconds)
            samples[name].peak_rss.append(peak)
    summaries = {name: sample.summary() for name, sample in samples.items() if sample.seconds}
    for name, summary in summaries.items():
        t = summary["seconds"]
        peak = summary["peak_rss"] / 1e6
        print(f"  {name:21} {t['min']:8.3f} {t['median']:8.3f} {t['max']:8.3f} s {peak:8.0f} MB", flush=True)
    return {"output_bytes": checked.size, "checked": checked.compared, "contenders": summaries}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("build/benchmark"), help="models and outputs; 8 GB")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--python", type=Path, default=sys.executable, help="an interpreter with fastconv alone")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9, help="of fastconv and the floor")
    parser.add_argument("--slow-rounds", type=int, default=3, help="of all others")
    parser.add_argument("--cases", default=",".join(case.name for case in CASES), help="comma-separated")
    parser.add_argument(
        "--numpy",
        default=",".join(case.name for case in CASES if case.in_numpy),
        help="cases of the NumPy path, which takes minutes; comma-separated, none if empty",
    )
    parser.add_argument("--tiny", action="store_true", help="a model of seconds, to try the benchmark itself")
    parser.add_argument(
        "--llama-cpp", type=Path, nargs=2, metavar=("SOURCE", "BIN"), help="its source tree and folder of built tools"
    )
    return parser.parse_args()


def main() -> None:
    """Make the models, check and measure every case, write results/end_to_end.json."""
    arguments = parse_arguments()
    shape = TINY if arguments.tiny else Shape()
    size = "tiny" if arguments.tiny else "1.1b"
    arguments.directory.mkdir(parents=True, exist_ok=True)
    bench = Bench(
        model=make_model(arguments.directory / f"model-{size}", shape),
        adapter=make_adapter(arguments.directory / f"adapter-{size}", shape),
        scratch=arguments.directory,
        python=arguments.python,
        threads=arguments.threads,
        llama_cpp=tuple(arguments.llama_cpp) if arguments.llama_cpp else None,
    )
    build_floor(bench.scratch)
    wanted = arguments.cases.split(",")
    result = {
        "machine": machine(),
        "model": {"parameters": sum(int(np.prod(s)) for s in shape.tensors().values()), "dtype": "bf16"},
        "input_bytes": (bench.model / "model.safetensors").stat().st_size,
        "threads": bench.threads,
        "floor": "every cache line of the input read through mmap, as many bytes as the output has written by pwrite",
        "cases": {},
    }
    for case in CASES:
        if case.name in wanted:
            warm(bench.model)
            warm(bench.adapter)
            result["cases"][case.name] = measure_case(
                bench, case, arguments.rounds, arguments.slow_rounds, numpy_path=case.name in arguments.numpy.split(",")
            )
            arguments.results.mkdir(parents=True, exist_ok=True)
            (arguments.results / "end_to_end.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
