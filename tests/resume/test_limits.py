"""Sizes beyond 32 bits and counts beyond usual, on sparse files: the right bytes in the right place, flat memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastconv import engine
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.checkpoint.storage import FileStorage
from fastconv.plan.job import TensorJob, TensorOutput
from fastconv.types import row_bytes
from tests import models
from tests.e2e.conftest import gguf_tensors
from tests.kernels import ggml
from tests.resume.sparse import write_sparse, write_sparse_file

MAX_RSS = 200 << 20

# The program, then its peak resident memory in bytes.
MEASURED = """
import sys
from fastconv.cli.main import main
code = main(sys.argv[1:])
# Not getrusage(): its peak includes that of the process that started this one.
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) << 10)
sys.exit(code)
"""


def convert(*arguments: object) -> int:
    """Peak resident bytes of a conversion in a process of its own."""
    command = [sys.executable, "-c", MEASURED, "convert", *map(str, arguments), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])


def put(path: Path, offset: int, values: np.ndarray) -> None:
    with open(path, "r+b") as file:
        os.pwrite(file.fileno(), models.encoded(values, "BF16"), offset)


def run_one(job: TensorJob, path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        engine.run([job], [descriptor], 2)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("at", [0, (1 << 31) + 64, (1 << 32) + 96, (1 << 36) - 64], ids=hex)
@pytest.mark.parametrize("type_name", ["q4_0", "q6_k", "f32"])
def test_places_beyond_32_bits(tmp_path: Path, at: int, type_name: str) -> None:
    """A tensor deep in a file of 64 GB and more, written deep in another."""
    values = models.bf16_rounded(np.random.default_rng(1).standard_normal((4, 256)).astype(np.float32))
    source = tmp_path / "source"
    source.touch()
    os.truncate(source, (1 << 36) + 4096)
    put(source, at, values)
    tensor = LazyTensor.stored("t", "bf16", (4, 256), FileStorage(source), at)
    size = 4 * row_bytes(type_name, 256)
    run_one(TensorJob("t", "t", (4, 256), tensor, (), (TensorOutput(0, type_name, at, size),)), tmp_path / "out")
    with open(tmp_path / "out", "rb") as file:
        written = os.pread(file.fileno(), size + 1, at)
    expected = values.tobytes() if type_name == "f32" else ggml.quantize(values, type_name).tobytes()
    assert written == expected


@pytest.mark.parametrize("n_cols", [1 << 13, (1 << 31) + 512], ids=["rows", "one row"])
def test_the_end_of_a_tensor_of_more_than_2_to_31_elements(tmp_path: Path, n_cols: int) -> None:
    """Only a few rows are drawn, by indices and columns beyond 32 bits."""
    n_rows = ((1 << 31) + (1 << 20)) // n_cols if n_cols < 1 << 31 else 1
    source = tmp_path / "source"
    write_sparse_file(source, {"t": (n_rows, n_cols)})
    start = source.stat().st_size - 2 * n_rows * n_cols
    values = models.bf16_rounded(np.random.default_rng(1).standard_normal(512).astype(np.float32))
    put(source, start + 2 * (n_rows * n_cols - 512), values)
    tensor = LazyTensor.stored("t", "bf16", (n_rows, n_cols), FileStorage(source), start)
    if n_rows > 1:
        got = tensor.numpy(n_rows - 1, n_rows)[0, -512:]
        drawn = tensor.with_rows([n_rows - 1, 0])
        assert (drawn.numpy()[0, -512:] == values).all()
        assert not drawn.numpy()[1].any()
        columns = tensor.row_range(n_rows - 40, n_rows).transposed()
        assert (columns.numpy(n_cols - 512, n_cols)[:, -1] == values).all()
    else:
        got = tensor.transposed().row_range(n_cols - 512, n_cols).numpy()[:, 0]
    assert (got == values).all()


def many_tensors(folder: Path, n_layer: int) -> models.LlamaShape:
    shape = models.LlamaShape(n_vocab=300, n_embd=32, n_ff=96, n_layer=n_layer, n_head=2, n_head_kv=1)
    write_sparse(folder, shape, shards=3)
    return shape


@pytest.mark.memory
def test_thousands_of_tensors(tmp_path: Path) -> None:
    shape = many_tensors(tmp_path / "model", 500)
    peak = convert(tmp_path / "model", "-o", tmp_path / "m.gguf", "--outtype", "q8_0", "--resume")
    assert peak < MAX_RSS
    assert len(gguf_tensors(tmp_path / "m.gguf")) == len(shape.tensor_shapes()) == 500 * 9 + 3


@pytest.mark.slow
def test_twenty_thousand_tensors(tmp_path: Path) -> None:
    many_tensors(tmp_path / "model", 2300)
    for target in ("gguf", "ggjt", "hf"):
        peak = convert(tmp_path / "model", "-o", tmp_path / target, "--to", target, "--outtype", "f16")
        assert peak < MAX_RSS, target
    assert (tmp_path / "hf" / "model.safetensors").exists()


BILLIONS = models.LlamaShape(n_vocab=4000, n_embd=8192, n_ff=28672, n_layer=80, n_head=64, n_head_kv=8)


@pytest.mark.memory
def test_a_70b_model_is_planned_in_little_memory(tmp_path: Path) -> None:
    n_bytes = write_sparse(tmp_path / "model", BILLIONS, shards=15)
    assert n_bytes > 1 << 36
    command = [
        sys.executable,
        "-c",
        MEASURED,
        "convert",
        tmp_path / "model",
        "--outtype",
        "q4_0",
        "--dry-run",
        "--json",
    ]
    done = subprocess.run(
        [*map(str, command), "-o", str(tmp_path / "o.gguf")], capture_output=True, text=True, check=True
    )
    *plan, peak = done.stdout.splitlines()
    assert int(peak) < MAX_RSS
    assert json.loads("\n".join(plan))


@pytest.mark.slow
def test_two_layers_of_a_70b_model(tmp_path: Path) -> None:
    """5 GB in bf16, written as 1.4 GB of q4_0, 3 GB of q8_0 from one read; interrupted and resumed too."""
    shape = models.LlamaShape(n_vocab=4000, n_embd=8192, n_ff=28672, n_layer=3, n_head=64, n_head_kv=8)
    write_sparse(tmp_path / "model", shape, shards=2)
    for more in ([], ["--max-memory", "4M"]):
        peak = convert(
            tmp_path / "model", "-o", tmp_path / "{type}.gguf", "--outtype", "q4_0,q8_0", "--overwrite", *more
        )
        assert peak < MAX_RSS
    for name, (type_name, dims, data) in gguf_tensors(tmp_path / "q4_0.gguf").items():
        if type_name == "q4_0":
            zero = ggml.quantize(np.zeros((1, 32), np.float32), "q4_0").tobytes()
            assert data == zero * (int(np.prod(dims)) // 32), name


@pytest.mark.memory
def test_a_file_of_more_than_64_gb(tmp_path: Path) -> None:
    """The model lies beyond the first 64 GB of its file; what is written is as if it did not."""
    tensors = models.write_hf(tmp_path / "plain" / "m", models.LlamaShape(n_embd=256, n_ff=768))
    plain = (tmp_path / "plain" / "m" / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(plain[:8], "little")
    hole = 1 << 36
    header = {
        name: entry | {"data_offsets": [offset + hole for offset in entry["data_offsets"]]}
        for name, entry in json.loads(plain[8:start]).items()
    }
    # A tensor that no LLaMA has would be refused; transformers once wrote this one, which is computed anew.
    unused = "model.layers.0.self_attn.rotary_emb.inv_freq"
    text = json.dumps({unused: {"dtype": "BF16", "shape": [hole // 2], "data_offsets": [0, hole]}} | header).encode()
    text += b" " * (-len(text) % 8)
    shutil.copytree(tmp_path / "plain", tmp_path / "model")
    with open(tmp_path / "model" / "m" / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.seek(hole, os.SEEK_CUR)
        file.write(plain[start:])
    assert len(tensors) > 20
    for name in ("plain", "model"):
        peak = convert(tmp_path / name / "m", "-o", tmp_path / f"{name}.gguf", "--outtype", "q4_0", "--resume")
        assert peak < MAX_RSS
    assert (tmp_path / "model.gguf").read_bytes() == (tmp_path / "plain.gguf").read_bytes()
