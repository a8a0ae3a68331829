"""Record what llama.cpp's converter and quantizer write for the cases of tests/gguf/cases.py.

    python tests/golden/gguf/make.py LLAMA_CPP [--quantize LLAMA_QUANTIZE]

LLAMA_CPP: a source tree of release b11434. Needs torch and transformers (5.23 recorded what is here).
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import logging
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from tests.gguf.cases import CASES, Case  # noqa: E402
from tests.gguf.gguf_file import GgufFile  # noqa: E402

FLOAT_TYPES = ("f32", "f16", "bf16")
QUANTIZED = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "q6_k")


def convert(llama_cpp: Path, source: Path, target: Path, outtype: str, vocab_only: bool = False) -> None:
    """One run of convert_hf_to_gguf.py, in this process."""
    if str(llama_cpp) not in sys.path:
        sys.path.insert(0, str(llama_cpp / "gguf-py"))
        sys.path.insert(0, str(llama_cpp))
    script = importlib.import_module("convert_hf_to_gguf")
    # Made-up tokenizers have pre-tokenizers of no known name: the digest that names them is recorded in its place.
    importlib.import_module("conversion.base").TextModel.get_vocab_base_pre = check_digest
    arguments = [str(source), "--outfile", str(target), "--outtype", outtype]
    sys.argv = ["convert_hf_to_gguf.py", *arguments, *(["--vocab-only"] if vocab_only else [])]
    script.main()


def check_digest(_: Any, tokenizer: Any) -> str:
    known = json.loads((ROOT / "python/fastconv/vocab/pre_tokenizers.json").read_text("utf-8"))
    return hashlib.sha256(str(tokenizer.encode(known["check_text"])).encode()).hexdigest()


def record(case: Case, llama_cpp: Path, quantize: Path | None, types: tuple[str, ...]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        source = case.write(Path(folder))
        written: dict[str, Any] = {}
        for outtype in types:
            target = Path(folder) / f"{outtype}.gguf"
            if outtype in FLOAT_TYPES:
                convert(llama_cpp, source, target, outtype)
            elif outtype == "vocab":
                convert(llama_cpp, source, target, "auto", vocab_only=True)
            elif quantize is not None:
                if not (Path(folder) / "bf16.gguf").exists():
                    convert(llama_cpp, source, Path(folder) / "bf16.gguf", "bf16")
                run = [quantize, Path(folder) / "bf16.gguf", target, outtype.upper(), "1"]
                subprocess.run(run, check=True, capture_output=True)
            written[outtype] = digest(target)
        keys = GgufFile(Path(folder) / f"{types[0]}.gguf").described()
    return {"keys": keys, "files": written}


def digest(path: Path) -> dict[str, Any]:
    file = GgufFile(path)
    return {
        "header": hashlib.sha256(file.header).hexdigest(),
        "file": hashlib.sha256(path.read_bytes()).hexdigest(),
        "tensors": [[tensor.name, tensor.type] for tensor in file.tensors],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("llama_cpp", type=Path)
    parser.add_argument("--quantize", type=Path, required=True)
    parser.add_argument("--case", action="append")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    failed = []
    for case in CASES:
        if options.case and case.name not in options.case:
            continue
        types: tuple[str, ...] = ("bf16", "q4_0")
        if case.name in ("llama", "rope_llama3", "tied"):
            types = ("bf16", "f16", "f32", *QUANTIZED)
        if case.name in ("llama", "bpe", "card", "name_with_size"):
            types += ("vocab",)
        try:
            recorded = record(case, options.llama_cpp, options.quantize, types)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # one refused case must not lose the others
            traceback.print_exc()
            failed.append(f"{case.name}: {error!r}")
            continue
        text = json.dumps(recorded, indent=1, ensure_ascii=False)
        (options.output / f"{case.name}.json").write_text(text + "\n", encoding="utf-8")
    logging.shutdown()
    print("\n".join(["failed:", *failed] if failed else ["all recorded"]))


if __name__ == "__main__":
    main()
