"""Decoders give the values of the oracle, of gguf and of other libraries, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from fastconv import _native
from tests.kernels import ggml
from tests.oracle import blocks as oracle

TYPES = ggml.TYPES
BLOCKS = [name for name, info in TYPES.items() if info.decodes and info.block_size > 1]
# Grids of thousands of points: gguf's decoder is the oracle, we write no second one.
BY_GGUF_ALONE = [*ggml.IQ3, *ggml.IQ2]


def random_blocks(type: str, n_blocks: int = 600) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (3, n_blocks * TYPES[type].block_bytes), dtype=np.uint8)


def assert_same_values(got: np.ndarray, want: np.ndarray) -> None:
    """The same bits, or both NaN."""
    assert got.dtype == want.dtype == np.float32
    same = (got.view(np.uint32) == want.view(np.uint32)) | (np.isnan(got) & np.isnan(want))
    at = np.argwhere(~same)
    assert len(at) == 0, f"{len(at)} differ, first {at[0]}: {got[tuple(at[0])]!r}, not {want[tuple(at[0])]!r}"


@pytest.mark.parametrize("type", [name for name in BLOCKS if name not in BY_GGUF_ALONE])
def test_random_blocks_against_the_oracle(type: str, isa: str) -> None:
    blocks = random_blocks(type)
    want = oracle.decode(blocks, type).reshape(len(blocks), -1)
    assert_same_values(_native.dequantize(blocks, type, isa=isa), want)
    assert_same_values(_native.dequantize(blocks, type, threads=3, isa=isa), want)


@pytest.mark.parametrize("type", [*ggml.BLOCKS, *BY_GGUF_ALONE])
def test_random_blocks_against_gguf(type: str, isa: str) -> None:
    gguf = pytest.importorskip("gguf")
    blocks = random_blocks(type)
    with np.errstate(all="ignore"):
        want = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[type.upper()])
    assert_same_values(_native.dequantize(blocks, type, isa=isa), want)


def every(n_bits: int) -> np.ndarray:
    return np.arange(1 << n_bits, dtype=f"<u{n_bits // 8}")


def test_every_f16(isa: str) -> None:
    bits = every(16)
    got = _native.dequantize(bits.view(np.uint8)[None], "f16", isa=isa)[0]
    assert_same_values(got, bits.view(np.float16).astype(np.float32))


def test_every_bf16(isa: str) -> None:
    bits = every(16)
    got = _native.dequantize(bits.view(np.uint8)[None], "bf16", isa=isa)[0]
    assert (got.view(np.uint32) == bits.astype(np.uint32) << 16).all()


@pytest.mark.parametrize(("type", "name"), [("f8_e4m3", "float8_e4m3fn"), ("f8_e5m2", "float8_e5m2")])
def test_every_f8(type: str, name: str, isa: str) -> None:
    dtypes = pytest.importorskip("ml_dtypes")
    bits = every(8)
    got = _native.dequantize(bits[None], type, isa=isa)[0]
    assert_same_values(got, bits.view(getattr(dtypes, name)).astype(np.float32))


@pytest.mark.parametrize(("type", "name"), [("f8_e4m3", "float8_e4m3fn"), ("f8_e5m2", "float8_e5m2")])
def test_every_f8_against_torch(type: str, name: str, isa: str) -> None:
    torch = pytest.importorskip("torch")
    bits = every(8)
    got = _native.dequantize(bits[None], type, isa=isa)[0]
    assert_same_values(got, torch.from_numpy(bits.copy()).view(getattr(torch, name)).float().numpy())


def test_f64_rounds_to_even(isa: str) -> None:
    rng = np.random.default_rng(5)
    near = rng.standard_normal(4096).astype(np.float32).astype(np.float64)
    above = np.nextafter(near.astype(np.float32), np.float32(np.inf)).astype(np.float64)
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e300, -1e300, 1e-300, 2.0**-149, 2.0**-150, 1e-40])
    x = np.concatenate([near, (near + above) / 2, special])
    with np.errstate(all="ignore"):
        want = x.astype(np.float32)
    unaligned = np.concatenate([np.zeros(1, np.uint8), x.view(np.uint8)])[1:]
    got = np.empty(len(x), np.float32)
    _native.dequantize_into(unaligned, "f64", got, isa)
    assert_same_values(got, want)


@pytest.mark.parametrize("type", ["f32", "f16", "bf16", "f64", "f8_e4m3", "f8_e5m2"])
@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 31, 33])
def test_any_length(type: str, n: int, isa: str) -> None:
    blocks = np.random.default_rng(n).integers(0, 256, n * TYPES[type].block_bytes, dtype=np.uint8)
    whole = np.full(n + 32, 7, np.float32)
    _native.dequantize_into(blocks, type, whole[16 : 16 + n], isa)
    long = np.concatenate([blocks, np.zeros(64 * TYPES[type].block_bytes, np.uint8)])[None]
    assert_same_values(whole[16 : 16 + n], _native.dequantize(long, type)[0, :n])
    assert (whole[:16] == 7).all()
    assert (whole[16 + n :] == 7).all()


@pytest.mark.parametrize(
    ("n_bytes", "type", "message"),
    [
        (17, "q4_0", "found 17 bytes a row, expected a multiple of 18"),
        (1, "f16", "found 1 bytes a row, expected a multiple of 2"),
        (8, "i64", "type 'i64' cannot be decoded"),
        (8, "f7", "type 'f7' is unknown"),
    ],
)
def test_what_cannot_be_decoded(n_bytes: int, type: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _native.dequantize(np.zeros((1, n_bytes), np.uint8), type)


@pytest.mark.parametrize("type", ["f16", "bf16"])
@pytest.mark.parametrize("n", [0, 1, 15, 16, 63, 64, 65, 127, 161, 1000])
def test_decoding_with_the_largest_magnitude(type: str, n: int, isa: str) -> None:
    finite = np.random.default_rng(n).standard_normal((1, n)).astype(np.float32)
    for special in ((), (np.inf,), (-np.inf, np.nan)):
        values = finite.copy()
        values[0, n - len(special) :] = special[:n]
        stored = _native.quantize(values, type)
        want = _native.dequantize(stored, type)
        out = np.full(n, 7, np.float32)
        largest = np.float32(_native.decode_max(stored, type, out, isa))
        assert_same_values(out.reshape(1, -1), want)
        magnitudes = np.abs(want.ravel())
        expected = np.float32(magnitudes.max()) if n else np.float32(0)
        assert largest == expected or (np.isnan(largest) and np.isnan(expected))
