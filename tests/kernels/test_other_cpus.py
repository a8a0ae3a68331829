"""The kernels under qemu: NEON against this machine's bytes, and the dispatch on x86 processors of other years."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from fastconv import _native
from tests.kernels import ggml, rows
from tests.kernels.test_decode import random_blocks
from tests.kernels.test_encode_weighted import WEIGHTED, importances

ROOT = Path(__file__).parents[2]
CORE = ["csrc/isa/cpu_features.cpp", "csrc/isa/kernel_table.cpp", *sorted((ROOT / "csrc" / "blocks").glob("*.cpp"))]
FILTER = "tests/kernels/other_cpus/kernel_filter.cpp"
FLAGS = ["-std=c++17", "-O1", "-ffp-contract=off", "-static", "-Icsrc"]
AVX2 = ["-mavx2", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]

pytestmark = pytest.mark.qemu


def tools(*names: str) -> list[str]:
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    return list(names)


def assert_shares_no_code(path: str, isa: str) -> None:
    """An inline function compiled for one processor must not become everybody's copy: only tables are visible."""
    symbols = subprocess.run(
        ["nm", "-gC", "--defined-only", path], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    for line in symbols.splitlines():
        assert line.split(maxsplit=2)[2].startswith(f"fastconv::{isa}::k")


def build(compiler: str, folder: Path, shells: dict[str, list[str]]) -> Path:
    """The filter program with the kernels of `shells`: instruction set -> its flags."""
    objects = []
    for isa, flags in shells.items():
        for shell in sorted((ROOT / "csrc" / "isa" / isa).glob("*.cpp")):
            objects.append(str(folder / f"{isa}-{shell.stem}.o"))
            subprocess.run([compiler, *FLAGS, *flags, "-c", str(shell), "-o", objects[-1]], cwd=ROOT, check=True)
            assert_shares_no_code(objects[-1], isa)
    program = folder / "kernel_filter"
    subprocess.run([compiler, *FLAGS, *CORE, FILTER, *objects, "-o", str(program)], cwd=ROOT, check=True)
    return program


@pytest.fixture(scope="module")
def neon(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    compiler, emulator = tools("aarch64-linux-gnu-g++", "qemu-aarch64-static")
    return [emulator, str(build(compiler, tmp_path_factory.mktemp("neon"), {"neon": []}))]


@pytest.fixture(scope="module")
def x86(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    if platform.machine() != "x86_64":
        pytest.skip("needs an x86-64 compiler")
    compiler, emulator = tools("g++", "qemu-x86_64-static")
    shells = {"baseline": [], "avx2": AVX2, "avx512": AVX512}
    return [emulator, str(build(compiler, tmp_path_factory.mktemp("x86"), shells))]


def run(program: list[str], *arguments: object, data: bytes = b"") -> bytes:
    command = [*program, *map(str, arguments)]
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout


def hard_rows() -> np.ndarray:
    bits = np.random.default_rng(1).integers(0, 2**32, (4, 1536), dtype=np.uint32).view(np.float32)
    return np.concatenate([*(x[:4] for x in rows.kinds().values()), bits])


def assert_equals_this_machine(program: list[str]) -> None:
    x = hard_rows()
    for name, info in ggml.TYPES.items():
        if info.encodes and not info.needs_importance:
            assert run(program, "encode", name, data=x.tobytes()) == _native.quantize(x, name).tobytes(), name
        if name in (*WEIGHTED, *ggml.IQ3, *ggml.IQ2):
            importance = importances()["half zero"]
            got = run(program, "encode_weighted", name, x.shape[1], data=importance.tobytes() + x.tobytes())
            assert got == _native.quantize(x, name, importance=importance).tobytes(), name
        if info.decodes:
            blocks = random_blocks(name, 512).reshape(1, -1)  # one row: planar types store it as a whole
            got = np.frombuffer(run(program, "decode", name, data=blocks.tobytes()), np.float32)
            want = _native.dequantize(blocks, name).ravel()
            # Which NaN a NaN scale gives depends on the order of a product, which compilers choose.
            same = (got.view(np.uint32) == want.view(np.uint32)) | (np.isnan(got) & np.isnan(want))
            assert same.all(), name
    for source, target in _native.recodes():
        stored = _native.quantize(x, source).ravel()
        want = np.empty(x.size // 32 * ggml.TYPES[target].block_bytes, np.uint8)
        _native.recode_into(stored, source, target, want)
        assert run(program, "recode", source, target, data=stored.tobytes()) == want.tobytes(), (source, target)
    y = rows.kinds()["gaussian"].ravel()[:1013].copy()
    assert np.frombuffer(run(program, "max_abs", data=y.tobytes()), np.float32)[0] == _native.max_abs(y)
    assert np.frombuffer(run(program, "sum_of_squares", data=y.tobytes()), np.float64)[0] == _native.sum_of_squares(y)
    assert np.frombuffer(run(program, "square_norm", data=y.tobytes()), np.float64)[0] == _native.square_norm(y)
    m, n, rank = 7, 75, 9
    tile, b, a = (np.resize(y[i:], shape) for i, shape in enumerate([(m, n), (m, rank), (rank, n)]))
    got = run(program, "lora_add", m, n, rank, 0.7, data=tile.tobytes() + b.tobytes() + a.tobytes())
    _native.lora_add(tile, b, a, 0.7)
    assert got == tile.tobytes()


def test_neon_gives_the_same_bytes(neon: list[str]) -> None:
    assert run(neon, "isas").split() == [b"neon"]
    assert_equals_this_machine(neon)


@pytest.mark.parametrize(
    ("cpu", "isas"),
    [
        ("qemu64", [b"baseline"]),
        ("Nehalem", [b"baseline"]),
        ("SandyBridge", [b"baseline"]),  # AVX without AVX2
        ("Haswell", [b"avx2", b"baseline"]),
    ],
)
def test_older_processors_get_what_they_can_run(cpu: str, isas: list[bytes], x86: list[str]) -> None:
    program = [x86[0], "-cpu", cpu, x86[1]]
    assert run(program, "isas").split() == isas
    assert_equals_this_machine(program)
