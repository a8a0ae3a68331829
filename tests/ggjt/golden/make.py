"""Makes sha256.json: what the tools of 2023 wrote for the model of tests/ggjt/files.py.

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
from tests.models import write_safetensors

QUANTIZED = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")


def main() -> None:
    *quantize, convert = sys.argv[1:]
    hashes: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.json").write_text(json.dumps(files.GOLDEN_SHAPE.config()))
        (folder / "tokenizer.model").write_bytes(files.real_spm_model())
        tensors = files.closed_form_tensors(files.GOLDEN_SHAPE)
        write_safetensors(folder / "model-00001-of-00001.safetensors", tensors, "F32")
        out = folder / "out.bin"

        def record(key: str, command: list[str]) -> None:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            hashes[key] = hashlib.sha256(out.read_bytes()).hexdigest()

        for outtype in ("f32", "f16"):
            record(f"v1 {outtype}", [sys.executable, convert, str(folder), "--outtype", outtype, "--outfile", str(out)])
        f32 = folder / "f32.bin"
        subprocess.run([sys.executable, convert, str(folder), "--outtype", "f32", "--outfile", str(f32)], check=True)
        for version, program in enumerate(quantize, start=1):
            # The tools of v1 and v2 wrote no f32 and f16 files.
            for outtype in (*QUANTIZED, "f32", "f16") if version == 3 else QUANTIZED:
                record(f"v{version} {outtype}", [program, str(f32), str(out), str(files.FTYPES[outtype])])
    Path(__file__).with_name("sha256.json").write_text(json.dumps(hashes, indent=1) + "\n")


if __name__ == "__main__":
    main()
