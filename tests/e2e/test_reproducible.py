"""The same command, the same files: whatever the instruction set, the threads, the tiles and where the input lies.

GGUF, GGJT and a Hugging Face folder; with an adapter, and with an importance matrix where the target takes one.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fastconv
from fastconv import _native
from tests import imatrices, models
from tests.e2e.conftest import write_adapter

# Bytes by which data is moved: to odd addresses, off the vectors' alignment, into other pages.
PADDINGS = (1, 2, 31, 4080)
TARGETS: dict[str, dict[str, Any]] = {
    "gguf": {"outtype": "q4_0"},
    "gguf of K-quants": {"outtype": "q4_k_m"},
    "ggjt": {"to": "ggjt", "outtype": "q5_1"},
    "hf": {"to": "hf", "outtype": "f16"},
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reproducible")
    models.write_hf(folder / "model", models.WIDE)
    write_adapter(folder / "adapter", models.WIDE, rank=5)
    parts = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    widths = {part: models.WIDE.n_ff if part == "ffn_down" else 256 for part in parts}
    shapes = {f"blk.{layer}.{part}.weight": (8, width) for layer in range(2) for part, width in widths.items()}
    imatrices.write_gguf(folder / "imatrix.gguf", imatrices.random_entries(shapes))
    return folder


def digests(
    sources: Path, out: Path, model: str, case: str, lora: bool, importance: bool, **more: Any
) -> dict[str, str]:
    options = TARGETS[case] | more
    target = out / ("folder" if options.get("to") == "hf" else "model.out")
    if lora:
        options["lora"] = str(sources / "adapter")
    if importance:
        options["imatrix"] = str(sources / "imatrix.gguf")
    fastconv.convert(str(sources / model), str(target), overwrite=True, **options)
    files = sorted(target.iterdir()) if target.is_dir() else [target]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.parametrize("lora", [False, True], ids=["", "lora"])
@pytest.mark.parametrize(
    ("case", "importance"), [*((case, False) for case in TARGETS), ("gguf", True), ("gguf of K-quants", True)]
)
def test_isas_threads_and_tiles(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, importance: bool, lora: bool
) -> None:
    run: Callable[..., Any] = _native.Run
    made = []

    def forced(**options: Any) -> Callable[..., Any]:
        def make(*arguments: Any, **given: Any) -> Any:
            made.append(options)
            return run(*arguments, **given | options)

        return make

    first = digests(sources, tmp_path, "model", case, lora, importance, threads=1)
    for isa in _native.isas():
        for tile_bytes, threads in ((0, 1), (4096, 3), (100_000, 2)):
            monkeypatch.setattr(_native, "Run", forced(isa=isa, tile_bytes=tile_bytes))
            found = digests(sources, tmp_path, "model", case, lora, importance, threads=threads)
            assert found == first, (isa, tile_bytes, threads)
    assert len(made) == 3 * len(_native.isas())


@pytest.mark.parametrize("padding", PADDINGS)
def test_alignment_of_the_input(sources: Path, tmp_path: Path, padding: int) -> None:
    """Spaces at the end of a safetensors header move every tensor."""
    moved = sources / f"moved-{padding}"
    moved.mkdir()
    for file in (sources / "model").iterdir():
        raw = file.read_bytes()
        if file.suffix == ".safetensors":
            (length,) = struct.unpack_from("<Q", raw)
            raw = struct.pack("<Q", length + padding) + raw[8 : 8 + length] + b" " * padding + raw[8 + length :]
        (moved / file.name).write_bytes(raw)
    for case in ("ggjt", "hf"):  # GGUF has the folder's name inside
        first = digests(sources, tmp_path, "model", case, True, False)
        assert digests(sources, tmp_path, moved.name, case, True, False) == first
