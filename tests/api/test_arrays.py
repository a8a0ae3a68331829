"""quantize() and dequantize(): every dtype, shape and memory order, against ggml, gguf and torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import pytest
import torch

import fastconv
from fastconv.errors import NonFiniteError, UsageError
from fastconv.types import TYPES
from tests.kernels import ggml
from tests.oracle import blocks as oracle

GGML_TYPES = tuple(
    name
    for name, t in TYPES.items()
    if t.encodes and t.ggml_type >= 0 and t.block_size > 1 and name not in ggml.OF_ANOTHER_RELEASE
)
BLOCK_TYPES = tuple(name for name in GGML_TYPES if not TYPES[name].needs_importance)
OLD_TYPES = tuple(name for name, info in TYPES.items() if info.encodes and info.ggml_type < 0)
N_COLS = 512


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


@pytest.mark.parametrize("type", BLOCK_TYPES)
def test_blocks_are_those_of_ggml(type: str) -> None:
    x = values(7, N_COLS)
    assert np.array_equal(fastconv.quantize(x, type), ggml.quantize(x, type))
    assert np.array_equal(fastconv.quantize(x, type.upper(), threads=3), ggml.quantize(x, type))


@pytest.mark.parametrize("type", OLD_TYPES)
def test_blocks_of_older_files_are_those_of_the_oracle(type: str) -> None:
    x = values(7, N_COLS)
    assert fastconv.quantize(x, type).tobytes() == oracle.encode(x, type).tobytes()


def test_float_types_are_those_of_numpy() -> None:
    x = values(5, 33)
    assert np.array_equal(fastconv.quantize(x, "f32").view(np.float32), x)
    assert np.array_equal(fastconv.quantize(x, "f16").view(np.float16), x.astype(np.float16))
    assert np.array_equal(fastconv.quantize(x, "bf16").view(np.uint16), x.astype(ml_dtypes.bfloat16).view(np.uint16))


@pytest.mark.parametrize("type", BLOCK_TYPES)
def test_decoded_values_are_those_of_gguf(type: str) -> None:
    blocks = ggml.quantize(values(7, N_COLS), type)
    found = fastconv.dequantize(blocks, type)
    assert found.dtype == np.float32
    # gguf takes IQ types flat only.
    expected = gguf.quants.dequantize(blocks.ravel(), gguf.GGMLQuantizationType[type.upper()]).reshape(found.shape)
    # gguf may multiply and add in another order; the oracle keeps ggml's.
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    if not type.startswith(("iq1", "iq2", "iq3")):  # whose grids the oracle does without
        assert np.array_equal(found, oracle.decode(blocks, type).reshape(found.shape))


@pytest.mark.parametrize(
    ("type", "dtype"),
    [
        ("f64", torch.float64),
        ("f8_e4m3", torch.float8_e4m3fn),
        ("f8_e5m2", torch.float8_e5m2),
        ("bf16", torch.bfloat16),
    ],
)
def test_decoded_floats_are_those_of_torch(type: str, dtype: torch.dtype) -> None:
    stored = torch.from_numpy(values(4, 64)).to(dtype)
    found = fastconv.dequantize(stored.view(torch.uint8), type)
    assert torch.equal(found, stored.float())


@pytest.mark.parametrize("type", ["q4_0", "q6_k", "f16"])
@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x,
        lambda x: x.astype(np.float16),
        lambda x: x.astype(ml_dtypes.bfloat16),
        lambda x: torch.from_numpy(x),
        lambda x: torch.from_numpy(x).half(),
        lambda x: torch.from_numpy(x).bfloat16(),
    ],
    ids=["f32", "f16", "bf16", "torch f32", "torch f16", "torch bf16"],
)
@pytest.mark.parametrize(
    "arrange",
    [
        lambda x: x,
        lambda x: (x.T.copy() if isinstance(x, np.ndarray) else x.T.contiguous()).T,
        lambda x: (x.repeat(2, axis=1) if isinstance(x, np.ndarray) else x.repeat_interleave(2, 1))[:, ::2],
        lambda x: (x.repeat(2, axis=0) if isinstance(x, np.ndarray) else x.repeat_interleave(2, 0))[::2],
    ],
    ids=["contiguous", "transposed", "every other column", "every other row"],
)
def test_every_dtype_and_order_of_memory(
    type: str, convert: Callable[[np.ndarray], Any], arrange: Callable[[Any], Any]
) -> None:
    given = arrange(convert(values(6, N_COLS)))
    found = fastconv.quantize(given, type)
    assert isinstance(found, torch.Tensor if isinstance(given, torch.Tensor) else np.ndarray)
    x = given.float().numpy() if isinstance(given, torch.Tensor) else given.astype(np.float32)
    x = np.ascontiguousarray(x)
    expected = x.astype(np.float16).view(np.uint8) if type == "f16" else ggml.quantize(x, type)
    assert np.array_equal(np.asarray(found), expected)


@pytest.mark.parametrize("shape", [(64,), (3, 64), (2, 3, 64), (1, 1, 1, 32), (0, 64), (4, 0), (0,), (0, 3, 0, 64)])
@pytest.mark.parametrize("as_torch", [False, True])
def test_every_number_of_dimensions(shape: tuple[int, ...], as_torch: bool) -> None:
    x = values(*shape)
    given = torch.from_numpy(x) if as_torch else x
    blocks = fastconv.quantize(given, "q8_0")
    assert tuple(blocks.shape) == (*shape[:-1], shape[-1] // 32 * 34)
    back = fastconv.dequantize(blocks, "q8_0")
    assert tuple(back.shape) == shape
    rows = x.reshape(-1, shape[-1]) if x.size else np.empty((0, 32), np.float32)
    assert np.asarray(blocks).tobytes() == ggml.quantize(rows, "q8_0").tobytes()
    np.testing.assert_allclose(np.asarray(back), x, atol=np.abs(x).max(initial=0) / 127)


def test_more_rows_than_one_slice_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastconv.arrays._SLICE_BYTES", 3 * N_COLS * 4)
    x = values(10, N_COLS)
    assert np.array_equal(fastconv.quantize(x, "q4_0"), ggml.quantize(x, "q4_0"))
    x[8, 5] = np.nan
    with pytest.raises(NonFiniteError, match="row 8, column 5"):
        fastconv.quantize(x, "q4_0")


@pytest.mark.parametrize("type", GGML_TYPES)
@pytest.mark.parametrize("as_torch", [False, True])
def test_importance_of_columns(type: str, as_torch: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row for all matrices, or a row for each; types that do not heed it are as without."""
    monkeypatch.setattr("fastconv.arrays._SLICE_BYTES", 2 * N_COLS * 4)
    x, weights = values(2, 3, 5, N_COLS), values(2, 3, N_COLS, seed=1) ** 2
    convert = torch.from_numpy if as_torch else np.asarray
    found = np.asarray(fastconv.quantize(convert(x), type, importance=convert(weights), threads=2))
    alike = np.asarray(fastconv.quantize(convert(x), type, importance=convert(weights[1, 2])))
    for i, j in np.ndindex(2, 3):
        assert np.array_equal(found[i, j], ggml.quantize(x[i, j], type, weights[i, j]))
        assert np.array_equal(alike[i, j], ggml.quantize(x[i, j], type, weights[1, 2]))


@pytest.mark.parametrize("shape", [(N_COLS,), (0, N_COLS), (4, 0, N_COLS), (0, 3, N_COLS)])
def test_importance_of_few_rows_or_none(shape: tuple[int, ...]) -> None:
    weights = values(*shape[:-2], N_COLS) ** 2
    assert fastconv.quantize(values(*shape), "q4_0", importance=weights).shape == (*shape[:-1], N_COLS // 32 * 18)


@pytest.mark.parametrize(
    ("importance", "message"),
    [
        (np.ones(N_COLS), "the importance does not fit the array: found float64 of shape"),
        (np.ones(N_COLS - 32, np.float32), r"of shape \(480,\), expected float32 of shape \(512,\) or \(3, 512\)"),
        (np.ones((4, N_COLS), np.float32), r"of shape \(4, 512\)"),
        (np.full(N_COLS, np.nan, np.float32), "a value that is not finite or negative"),
        (np.full(N_COLS, np.inf, np.float32), "a value that is not finite or negative"),
        (np.full(N_COLS, -1, np.float32), "a value that is not finite or negative"),
    ],
)
def test_importance_that_cannot_be(importance: np.ndarray, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        fastconv.quantize(values(3, 2, N_COLS), "q4_0", importance=importance)


def test_types_that_need_importance() -> None:
    for name in (name for name in GGML_TYPES if TYPES[name].needs_importance):
        with pytest.raises(UsageError, match=f"{name} cannot be quantized without the importance of its columns"):
            fastconv.quantize(values(2, N_COLS), name)


def test_the_input_is_left_alone() -> None:
    x = values(4, N_COLS)
    x.setflags(write=False)
    fastconv.dequantize(fastconv.quantize(x, "q4_0"), "q4_0")
    assert np.array_equal(x, values(4, N_COLS))


def test_tensors_of_torch_that_numpy_does_not_take() -> None:
    x = torch.from_numpy(values(4, N_COLS))
    expected = fastconv.quantize(x, "q8_0")
    assert torch.equal(fastconv.quantize(x.clone().requires_grad_(), "q8_0"), expected)
    negated = torch.complex(torch.zeros_like(x), -x).conj().imag
    assert negated.is_neg()
    assert torch.equal(fastconv.quantize(negated, "q8_0"), expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("type", ["q4_0", "q6_k", "f16", "f32"])
def test_values_that_are_not_finite(bad: float, type: str) -> None:
    x = values(4, N_COLS)
    x[2, 7] = bad
    with pytest.raises(NonFiniteError, match=f"does not fit {type}: found {bad} in row 2, column 7"):
        fastconv.quantize(x, type)
    kept = fastconv.quantize(x, type, nonfinite="keep")
    others = [0, 1, 3]
    assert np.array_equal(kept[others], fastconv.quantize(x[others], type))


def test_values_beyond_the_type() -> None:
    x = np.full((1, 32), 1e6, np.float32)
    with pytest.raises(NonFiniteError, match=r"does not fit f16: found 1000000.0 in row 0, column 0"):
        fastconv.quantize(x, "f16")
    assert np.isinf(fastconv.quantize(x, "f16", nonfinite="keep").view(np.float16)).all()
    assert np.array_equal(fastconv.quantize(x, "bf16").view(np.uint16), x.astype(ml_dtypes.bfloat16).view(np.uint16))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fastconv.quantize(values(2, 32), "q9"), "unknown type: found q9, expected f32, f16"),
        (lambda: fastconv.quantize(values(2, 32), "f64"), "unknown type: found f64"),
        (lambda: fastconv.quantize(values(2, 32), None), "unknown type: found None"),  # type: ignore[arg-type]
        (lambda: fastconv.quantize(values(2, 33), "q4_0"), "q4_0 blocks: found 33, expected a multiple of 32"),
        (lambda: fastconv.quantize(values(2, 64), "q6_k"), "q6_k blocks: found 64, expected a multiple of 256"),
        (lambda: fastconv.quantize(np.float32(1), "q4_0"), "found a scalar"),  # type: ignore[arg-type]
        (lambda: fastconv.quantize(torch.tensor(1.0).bfloat16(), "q4_0"), "found a scalar"),
        (lambda: fastconv.quantize(values(2, 32).astype(np.float64), "q4_0"), "found float64, expected f32, f16 or"),
        (lambda: fastconv.quantize(values(2, 32).astype(">f4"), "q4_0"), "found >f4, expected f32, f16 or bf16"),
        (lambda: fastconv.quantize(np.zeros((2, 32), np.int32), "q4_0"), "found int32, expected f32, f16 or bf16"),
        (lambda: fastconv.quantize("text", "q4_0"), "cannot be quantized: found str"),  # type: ignore[arg-type]
        (lambda: fastconv.quantize(torch.zeros(2, 32).double(), "q4_0"), "found float64, expected f32, f16 or bf16"),
        (lambda: fastconv.quantize(torch.zeros(2, 32).to(torch.float8_e5m2), "q4_0"), "found float8_e5m2"),
        (lambda: fastconv.quantize(torch.zeros(2, 32, device="meta"), "q4_0"), "found meta; call .cpu() first"),
        (lambda: fastconv.quantize(torch.zeros(2, 32).to_sparse(), "q4_0"), "is sparse: found torch.sparse_coo"),
        (lambda: fastconv.quantize(values(2, 32), "q4_0", threads=0), "threads is out of range: found 0"),
        (lambda: fastconv.quantize(values(2, 32), "q4_0", nonfinite="drop"), "unknown nonfinite: found drop"),
        (lambda: fastconv.dequantize(np.zeros((2, 18), np.uint8), "q9"), "unknown type: found q9"),
        (lambda: fastconv.dequantize(np.zeros((2, 18), np.uint8), "i8"), "unknown type: found i8"),
        (lambda: fastconv.dequantize(np.zeros((2, 17), np.uint8), "q4_0"), "found uint8 of shape (2, 17)"),
        (lambda: fastconv.dequantize(np.zeros((2, 18), np.int8), "q4_0"), "found int8 of shape (2, 18)"),
        (lambda: fastconv.dequantize(np.uint8(1), "q4_0"), "found uint8 of shape ()"),  # type: ignore[arg-type]
        (lambda: fastconv.dequantize(torch.zeros(2, 18), "q4_0"), "found float32 of shape (2, 18)"),
        (lambda: fastconv.dequantize(torch.zeros(2, 18).bfloat16(), "q4_0"), "found bfloat16 of shape (2, 18)"),
        (lambda: fastconv.dequantize(torch.zeros(2, 18, device="meta"), "q4_0"), "found meta; call .cpu() first"),
        (
            lambda: fastconv.dequantize(np.zeros((2, 18), np.uint8), "q4_0", threads=-1),
            "threads is out of range: found -1",
        ),
        (lambda: fastconv.quantize(values(2, 64), "q4_0", threads=1 << 40), "threads is out of range: found 1099511"),
        (lambda: fastconv.quantize(values(2, 64), "q4_0", threads=1.5), "threads is out of range: found 1.5"),
        (
            lambda: fastconv.quantize(values(64), "q4_0", importance=np.ones(63, np.float32)),
            "found float32 of shape (63,), expected float32 of shape (64,)",
        ),
        (
            lambda: fastconv.quantize(torch.nested.nested_tensor([torch.ones(2, 64), torch.ones(3, 64)]), "q4_0"),
            "the tensor is nested",
        ),
    ],
)
def test_what_cannot_be(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError) as error:
        call()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_masks_are_not_dropped() -> None:
    """What is masked has no value to write; an array of that class in which nothing is masked is like any other."""
    array = np.ma.array(values(3, 64))
    np.testing.assert_array_equal(fastconv.quantize(array, "q4_0"), fastconv.quantize(array.data, "q4_0"))
    array[1, 5:7] = np.ma.masked
    with pytest.raises(
        UsageError, match=r"the array is masked.*: found 2 masked elements; call .filled\(value\) first"
    ):
        fastconv.quantize(array, "q4_0")
    with pytest.raises(UsageError, match="the array is masked"):
        fastconv.quantize(values(3, 64), "q4_0", importance=np.abs(array[1]))
    with pytest.raises(UsageError, match="the array is masked"):
        fastconv.dequantize(np.ma.masked_equal(np.zeros((2, 18), np.uint8), 0), "q4_0")


@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors")
def test_masks_of_torch_are_not_dropped() -> None:
    array = torch.ones(2, 64)
    with pytest.raises(UsageError, match=r"the tensor is masked.*; call .to_tensor\(value\) first"):
        fastconv.quantize(torch.masked.masked_tensor(array, array > 0), "q4_0")


def test_blocks_that_are_not_contiguous() -> None:
    blocks = ggml.quantize(values(6, N_COLS), "q4_0")
    expected = fastconv.dequantize(blocks, "q4_0")
    assert np.array_equal(fastconv.dequantize(np.asfortranarray(blocks), "q4_0"), expected)
    assert torch.equal(
        fastconv.dequantize(torch.from_numpy(blocks).T.contiguous().T, "q4_0"), torch.from_numpy(expected)
    )
