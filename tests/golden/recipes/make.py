"""Record which types llama-quantize gives the tensors of tests/gguf/recipe_cases.py, by --dry-run.

    python tests/golden/recipes/make.py LLAMA_QUANTIZE

LLAMA_QUANTIZE: built from llama.cpp b11434. Files have holes where tensors would be, so all this takes seconds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import re
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

import gguf  # noqa: E402

from fastconv.plan.file_types import FILE_TYPES  # noqa: E402
from tests.gguf.carried_cases import header  # noqa: E402
from tests.gguf.recipe_cases import CASES, OPTIONS, PLAIN, Options, RecipeCase  # noqa: E402

# The cases for which options are recorded as well.
WITH_OPTIONS = ("mha_9_layers", "groups_of_8_tied", "8_experts", "gemma3n_two_embeddings")
LINE = re.compile(r"\[ *\d+/ *\d+\] (\S+) .* type = +(\S+), size = .*?(?:\((\S+)\))?$")


def write_model(path: Path, case: RecipeCase) -> None:
    facts = case.facts
    writer = gguf.GGUFWriter(path, facts.architecture)
    header(writer, facts, case.keys)
    size = 0
    for name, shape, kind in case.tensors():
        width = 2 if kind == "bf16" else 4
        n_bytes = math.prod(shape) * width
        block = gguf.GGMLQuantizationType[kind.upper()]
        writer.add_tensor_info(name, shape, gguf.np.dtype("float32"), n_bytes, raw_dtype=block)
        size += -(-n_bytes // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size + size + 64)


def dry_run(quantize: Path, model: Path, arguments: list[str]) -> dict[str, str]:
    done = subprocess.run(
        [quantize, "--dry-run", *arguments[:-1], model, arguments[-1]], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{model}: {arguments}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    found = re.sub(r", warning: [^\n]*\n", ", ", done.stdout + done.stderr)
    lines = [LINE.match(line) for line in found.splitlines()]
    return {line[1]: (line[3] or line[2]).lower() for line in lines if line}


def by_kind(types: dict[str, str]) -> dict[str, str]:
    """Tensors that differ in their layer alone together: their one type, or the types in layer order, runs counted."""
    kinds: dict[str, list[str]] = {}
    for name, type_name in types.items():
        kinds.setdefault(re.sub(r"^blk\.\d+\.", "blk.*.", name), []).append(type_name)
    return {kind: found[0] if len(set(found)) == 1 else runs(found) for kind, found in kinds.items()}


def runs(types: list[str]) -> str:
    counted = ((type_name, len(list(run))) for type_name, run in itertools.groupby(types))
    return " ".join(type_name if count == 1 else f"{type_name}*{count}" for type_name, count in counted)


def record(quantize: Path, case: RecipeCase, options: Options, folder: Path) -> dict[str, list[str]]:
    model = folder / f"{case.name}.gguf"
    write_model(model, case)
    imatrix = folder / "imatrix.dat"
    imatrix.write_bytes(struct.pack("<iii1siifi", 1, 1, 1, b"x", 1, 1, 1.0, 1)[:-4])
    recorded: dict[str, list[str]] = {}
    for name in FILE_TYPES:
        for extra, suffix in (([], ""), (["--imatrix", str(imatrix)], "+imatrix")):
            types = dry_run(quantize, model, [*options.arguments, *extra, name.upper()])
            assert types.keys() == {tensor.name for tensor in case.tensors()}, (case.name, name)
            found = by_kind(types)
            recorded.setdefault("kinds", list(found))
            assert recorded["kinds"] == list(found)
            if suffix == "" or recorded[name] != list(found.values()):
                recorded[name + suffix] = list(found.values())
    return recorded


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("quantize", type=Path)
    parser.add_argument("--case", action="append")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    for case in CASES:
        if arguments.case and case.name not in arguments.case:
            continue
        recorded = {}
        with tempfile.TemporaryDirectory() as folder:
            for options in OPTIONS if case.name in WITH_OPTIONS else (PLAIN,):
                recorded[options.name] = record(arguments.quantize, case, options, Path(folder))
        lines = ",\n".join(
            f" {json.dumps(options)}: {{\n"
            + ",\n".join(f"  {json.dumps(name)}: {json.dumps(found)}" for name, found in types.items())
            + "\n }"
            for options, types in recorded.items()
        )
        (arguments.output / f"{case.name}.json").write_text(f"{{\n{lines}\n}}\n")
        print(case.name)


if __name__ == "__main__":
    main()
