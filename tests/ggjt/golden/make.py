"""Makes sha256.json: what the tools of 2023 wrote for the models of tests/ggjt/files.py, blocks of q6_k left out.

    python -m tests.ggjt.golden.make V1 V2 V3 CONVERT

V1, V2, V3: the `quantize` programs of llama.cpp as in the source distributions of llama-cpp-python 0.1.48, 0.1.50 and
0.1.77 (`make quantize` in vendor/llama.cpp). CONVERT: convert.py of 0.1.77, which wrote version 1.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.ggjt import files
from tests.models import LlamaShape, write_safetensors

QUANTIZED = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")


def main() -> None:
    *quantize, convert = sys.argv[1:]
    hashes: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, out = folder / "f32.bin", folder / "out.bin"

        def record(key: str, *command: str) -> None:
            run(*command)
            hashes[key] = hashlib.sha256(files.without_q6_k(out)).hexdigest()

        write_checkpoint(folder, files.GOLDEN_SHAPE)
        for outtype in ("f32", "f16"):
            record(f"v1 {outtype}", sys.executable, convert, name, "--outtype", outtype, "--outfile", str(out))
        run(sys.executable, convert, name, "--outtype", "f32", "--outfile", str(source))
        for version, program in enumerate(quantize, start=1):
            # The tools of v1 and v2 wrote no f32 and f16 files.
            for outtype in (*QUANTIZED, "f32", "f16") if version == 3 else QUANTIZED:
                record(f"v{version} {outtype}", program, str(source), str(out), str(files.FTYPES[outtype]))

        write_checkpoint(folder, files.WIDE_SHAPE)
        run(sys.executable, convert, name, "--outtype", "f32", "--outfile", str(source))
        for outtype in ("q4_0", "q6_k"):
            record(f"wide {outtype}", quantize[-1], str(source), str(out), str(files.FTYPES[outtype]))
    Path(__file__).with_name("sha256.json").write_text(json.dumps(hashes, indent=1) + "\n")


def write_checkpoint(folder: Path, shape: LlamaShape) -> None:
    (folder / "config.json").write_text(json.dumps(shape.config()))
    (folder / "tokenizer.model").write_bytes(files.real_spm_model())
    write_safetensors(folder / "model-00001-of-00001.safetensors", files.closed_form_tensors(shape), "F32")


def run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
