"""Whole small models cut short anywhere: every reader refuses them, and so a conversion, before anything is written.

A prefix of a header says too little, one of the data holds less than the header says. Where nothing is missing (the
padding at a file's end) what is read is all that was there.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from fastconv.checkpoint.imatrix import read_imatrix
from fastconv.checkpoint.open import open_checkpoint
from fastconv.cli import main
from fastconv.errors import FastconvError
from tests import imatrices, models

SHAPE = models.LlamaShape(n_vocab=300, n_embd=32, n_ff=96, n_layer=1, n_head_kv=4)


def tensors(path: Path) -> object:
    """All that the reader says of a file, plain enough to compare."""
    found = open_checkpoint(path).tensors
    return {name: (tensor.dtype, tensor.shape, tensor.pieces[0].offset) for name, tensor in found.items()}


def importance(path: Path) -> object:
    return {name: (entry.counts, entry.values().tobytes()) for name, entry in read_imatrix(path).entries.items()}


def converted(*arguments: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        models.write_hf(folder / "source", SHAPE)
        outfile = folder / "model"
        assert main(["convert", str(folder / "source"), "-o", str(outfile), "--quiet", *arguments]) == 0
        return outfile

    return make


def safetensors(folder: Path) -> Path:
    models.write_hf(folder, SHAPE)
    return folder / "model.safetensors"


def torch_file(*, legacy: bool) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        import torch

        values = {name: torch.from_numpy(values) for name, values in models.random_tensors(SHAPE).items()}
        torch.save(values, folder / "model.pt", _use_new_zipfile_serialization=not legacy)
        return folder / "model.pt"

    return make


def ggml(magic: bytes, version: int | None) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        from tests.formats.format_builders import ggjt_bytes

        matrices = [("tok_embeddings.weight", [32, 2], 0, bytes(256)), ("w", [32, 64], 2, bytes(64 * 20))]
        whole = ggjt_bytes(matrices, magic=magic, version=version, scores=version is not None, aligned=False)
        (folder / "model").write_bytes(whole)
        return folder / "model"

    return make


def imatrix(*, is_gguf: bool) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        entries = imatrices.random_entries({"blk.0.attn_q.weight": (8, 64), "blk.0.ffn_up_exps.weight": (4, 8, 32)})
        (imatrices.write_gguf if is_gguf else imatrices.write_dat)(folder / "imatrix", entries)
        return folder / "imatrix"

    return make


# Name -> (what makes the file, what reads it, how many bytes at its end may be padding).
FILES: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object], int]] = {
    "safetensors": (safetensors, tensors, 0),
    "torch zip": (torch_file(legacy=False), tensors, 0),
    "torch before 1.6": (torch_file(legacy=True), tensors, 0),
    "gguf": (converted("--outtype", "f16"), tensors, 31),
    "gguf q4_0": (converted("--outtype", "q4_0"), tensors, 31),
    "ggjt v3": (converted("--to", "ggjt-v3", "--outtype", "q8_0"), tensors, 0),
    "ggjt v1": (converted("--to", "ggjt-v1", "--outtype", "f16"), tensors, 0),
    "ggmf": (ggml(b"fmgg", 1), tensors, 0),
    "ggml": (ggml(b"lmgg", None), tensors, 0),
    "imatrix gguf": (imatrix(is_gguf=True), importance, 31),
    "imatrix dat": (imatrix(is_gguf=False), importance, 64),
}
LENGTHS = [pytest.param(30, id="short"), pytest.param(1000, id="long", marks=pytest.mark.slow)]


@pytest.mark.parametrize("n_cuts", LENGTHS)
@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short(tmp_path: Path, name: str, n_cuts: int) -> None:
    """Anywhere in the whole, and at every one of so many bytes from both ends."""
    make, read, padding = FILES[name]
    path = make(tmp_path)
    whole, size = read(path), path.stat().st_size
    assert whole
    cuts = {*range(min(n_cuts, size)), *range(max(size - n_cuts, 0), size)}
    cuts |= set(random.Random(1).sample(range(size), min(n_cuts, size)))
    n_refused = 0
    for length in sorted(cuts, reverse=True):
        os.truncate(path, length)
        found = read_or_refused(read, path)
        if isinstance(found, FastconvError):
            n_refused += 1
        elif found != whole:
            # The GGML family does not say how many tensors there are: between two of them, only a conversion can tell.
            assert "gg" in name
            assert main(["convert", str(path), "-o", str(tmp_path / "out")]) == 1
            assert not (tmp_path / "out").exists()
        else:
            assert size - length <= padding
    assert n_refused >= len(cuts) - padding - 16


def read_or_refused(read: Callable[[Path], object], path: Path) -> object:
    try:
        return read(path)
    except FastconvError as error:
        return error


@pytest.mark.parametrize("n_cuts", [pytest.param(3, id="short"), pytest.param(60, id="long", marks=pytest.mark.slow)])
@pytest.mark.parametrize("spoilt", ["model/model-00002-of-00002.safetensors", "adapter/adapter_model.safetensors"])
def test_a_conversion_of_a_cut_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], spoilt: str, n_cuts: int
) -> None:
    from tests.e2e.conftest import write_adapter

    models.write_hf(tmp_path / "model", SHAPE, shards=2)
    write_adapter(tmp_path / "adapter", SHAPE)
    (tmp_path / "out").mkdir()
    size = (tmp_path / spoilt).stat().st_size
    command = ["convert", str(tmp_path / "model"), "--lora", str(tmp_path / "adapter"), "-o", str(tmp_path / "out/m")]
    for length in sorted(random.Random(2).sample(range(size), n_cuts), reverse=True):
        os.truncate(tmp_path / spoilt, length)
        assert main(command) == 1
        error = capfd.readouterr().err
        assert error.count("\n") == 1
        assert str(tmp_path / spoilt) in error
        assert not list((tmp_path / "out").iterdir())
