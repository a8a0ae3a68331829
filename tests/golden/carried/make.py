"""Record the digests of what llama-quantize makes of the files of tests/gguf/carried_cases.py.

    python tests/golden/carried/make.py LLAMA_QUANTIZE

LLAMA_QUANTIZE: built from llama.cpp b11434. gguf 0.19 wrote the files that were given to it.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from tests.gguf.carried_cases import CASES  # noqa: E402


def main() -> None:
    quantize = sys.argv[1]
    recorded: dict[str, dict[str, str]] = {}
    for case in CASES:
        recorded[case.name] = {}
        with tempfile.TemporaryDirectory() as folder:
            source = case.write(Path(folder))
            for name in case.types:
                target = Path(folder) / "out" / f"{name}.gguf"
                target.parent.mkdir(exist_ok=True)
                run = subprocess.run(
                    [quantize, *case.arguments, source, target, name.upper(), "1"], capture_output=True, text=True
                )
                if run.returncode:
                    sys.exit(f"{case.name} {name}: {run.stdout[-2000:]}{run.stderr[-2000:]}")
                recorded[case.name][name] = hashlib.sha256(target.read_bytes()).hexdigest()
                target.unlink()
    Path(__file__).with_name("sha256.json").write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    main()
