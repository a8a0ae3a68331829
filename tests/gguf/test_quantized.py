"""Whole files of every file type, byte for byte, against llama.cpp's converter and llama-quantize (b11434)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from fastconv import convert
from fastconv.conversion import prepare
from fastconv.errors import PlanError
from fastconv.request import ConvertRequest
from fastconv.types import TYPES
from tests.gguf.gguf_file import GgufFile
from tests.gguf.quantized_cases import CASES, QuantizedCase

RECORDED = Path(__file__).parents[1] / "golden" / "quantized"
RUNS = [
    pytest.param(case, imatrix, id=f"{case.name}-{imatrix}", marks=[pytest.mark.slow] if case.slow else [])
    for case in CASES
    for imatrix in (None, "imatrix.gguf", "imatrix.dat")
]


def recorded(case: QuantizedCase) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads((RECORDED / f"{case.name}.json").read_text("utf-8"))
    return found


def digests(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        data = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else hashlib.sha256(file.read())
    return {"header": hashlib.sha256(GgufFile(path).header).hexdigest(), "file": data.hexdigest()}


def is_written(case: QuantizedCase, outtype: str, imatrix: str | None, **options: Any) -> bool:
    """False while a type that the file holds has no encoder yet; then the plan is refused."""
    request = ConvertRequest(case.source, outtypes=(outtype,), outfile="planned.gguf", imatrix=imatrix, **options)
    without = [name for name, info in TYPES.items() if info.ggml_type >= 0 and info.block_size > 1 and not info.encodes]
    try:
        prepare(request)
    except PlanError as error:
        if error.what not in [f"{name} cannot be written" for name in without]:
            raise
        return False
    return True


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_run_is_recorded(case: QuantizedCase) -> None:
    runs = {f"{name}+{imatrix}" if imatrix else name for name, imatrix in case.runs()}
    assert recorded(case).keys() == runs | {options.name for options in case.options}


@pytest.mark.usefixtures("digests_as_names")
@pytest.mark.parametrize(("case", "imatrix"), RUNS)
def test_files_equal_llama_quantizes(
    case: QuantizedCase, imatrix: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All types from one read."""
    case.write(tmp_path / case.source)
    case.write_imatrices(tmp_path)
    monkeypatch.chdir(tmp_path)  # the path of an importance matrix is written into the file
    types = [name for name, other in case.runs() if other == imatrix and is_written(case, name, imatrix)]
    convert(case.source, "{type}.gguf", outtype=types, imatrix=imatrix)
    expected = {name: recorded(case)[f"{name}+{imatrix}" if imatrix else name] for name in types}
    assert {name: digests(tmp_path / f"{name}.gguf") for name in types} == expected


@pytest.mark.parametrize("case", [case for case in CASES if case.options], ids=lambda case: case.name)
def test_options_give_llama_quantizes_files(
    case: QuantizedCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    case.write(Path(case.source))
    for run in case.options:
        path = Path(f"{run.name}.gguf")
        pairs = {"tensor_types": tuple(run.options.get("tensor_types", {}).items())}
        if not is_written(case, run.outtype, None, **(run.options | pairs)):
            continue
        convert(case.source, path, outtype=run.outtype, **run.options)
        assert digests(path) == recorded(case)[run.name], run.name
