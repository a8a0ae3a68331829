"""The names that a PyTorch checkpoint's pickle may mention, and what each stands for: descriptions, never torch itself.

A name outside this table ends the reading (tensor_pickle.py); a function here only checks and describes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from fastconv.checkpoint.foreign_types import ELEMENT_BITS

MAX_RANK = 64  # as in torch


class Record(NamedTuple):
    """Bytes of one archive member, from the file's start."""

    offset: int
    size: int


class Global(NamedTuple):
    """A name that the pickle mentions. kind: "call", "storage", "dtype" or "class"; value: what it stands for."""

    name: str
    kind: str
    value: Any


class StorageRef(NamedTuple):
    """An archive member; dtype None: untyped."""

    key: str
    dtype: str | None
    record: Record


class TensorRef(NamedTuple):
    """offset and strides in elements, all of them inside the storage."""

    storage: StorageRef
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Opaque(NamedTuple):
    """Metadata that is no tensor; its value does not matter."""

    name: str


@dataclass(slots=True)
class Refused(Exception):
    """Why a pickle is not read; the caller knows the file."""

    what: str
    found: object = None
    expected: object = None


def describe(value: Any) -> str:
    """A few words; never a walk through nested data, which a hostile pickle makes endless."""
    if isinstance(value, Global | Opaque):
        return value.name
    if isinstance(value, str | int | float | bytes):
        return repr(value)[:80]
    if type(value) is tuple and len(value) <= 3:
        return ", ".join(describe(v) if not isinstance(v, tuple) else _brief_tuple(v) for v in value)
    return type(value).__name__.strip("_")


def _brief_tuple(value: tuple[Any, ...]) -> str:
    return "(" + ", ".join(str(v) if isinstance(v, int) else type(v).__name__ for v in value[:8]) + ")"


def _rebuild_tensor(args: tuple[Any, ...], dtype: str | None = None) -> TensorRef:
    storage, offset, shape, strides = args[:4]
    if not isinstance(storage, StorageRef):
        raise Refused("a tensor has no storage", describe(storage))
    dtype = dtype or storage.dtype
    if dtype is None:
        raise Refused("a tensor on an untyped storage has no dtype")
    sizes_fit = isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides) <= MAX_RANK
    if not sizes_fit or not all(is_size(n) for n in (offset, *shape, *strides)):
        raise Refused(
            f"a tensor on storage {storage.key} is malformed",
            f"offset, shape, strides {describe(args[1:4])}",
        )
    if math.prod(n for n in shape if n) >= 1 << 63:
        raise Refused(f"a tensor on storage {storage.key} is too large", f"shape {shape}")
    n_elements = storage.record.size // (ELEMENT_BITS[dtype] // 8)
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if (last >= n_elements) if all(shape) else (offset > n_elements):
        raise Refused(
            f"a tensor runs past the end of storage {storage.key}",
            f"{n_elements} elements",
            f"at least {last + 1} for offset {offset}, shape {shape}, strides {strides}",
        )
    return TensorRef(storage, dtype, offset, shape, strides)


def _rebuild_tensor_v2(args: tuple[Any, ...]) -> TensorRef:
    _check_arity("_rebuild_tensor_v2", args, 6, 7)
    return _rebuild_tensor(args)


def _rebuild_tensor_v1(args: tuple[Any, ...]) -> TensorRef:
    _check_arity("_rebuild_tensor", args, 4, 4)
    return _rebuild_tensor(args)


def _rebuild_tensor_v3(args: tuple[Any, ...]) -> TensorRef:
    _check_arity("_rebuild_tensor_v3", args, 7, 8)
    dtype = args[6]
    if not isinstance(dtype, Global) or dtype.kind != "dtype" or dtype.value is None:
        raise Refused("a tensor's dtype is not one", describe(dtype))
    return _rebuild_tensor(args, dtype.value)


def _rebuild_parameter(args: tuple[Any, ...]) -> TensorRef:
    _check_arity("_rebuild_parameter", args, 3, 4)
    if not isinstance(args[0], TensorRef):
        raise Refused("a parameter holds no tensor", describe(args[0]))
    return args[0]


def _rebuild_from_type_v2(args: tuple[Any, ...]) -> TensorRef:
    _check_arity("_rebuild_from_type_v2", args, 4, 4)
    function, cls, inner, _ = args
    if not isinstance(cls, Global) or cls.kind != "class":
        raise Refused("a tensor is of a class that is not plain", describe(cls))
    if not isinstance(function, Global) or function.kind != "call" or function.value not in _TENSOR_CALLS:
        raise Refused("a tensor is rebuilt by something else", describe(function))
    if not isinstance(inner, tuple):
        raise Refused("a tensor is malformed", describe(inner))
    rebuilt: TensorRef = function.value(inner)
    return rebuilt


_TENSOR_CALLS = (
    _rebuild_tensor_v1,
    _rebuild_tensor_v2,
    _rebuild_tensor_v3,
    _rebuild_parameter,
)


def _ordered_dict(args: tuple[Any, ...]) -> dict[Any, Any]:
    _check_arity("OrderedDict", args, 0, 0)
    return {}


def _torch_size(args: tuple[Any, ...]) -> tuple[Any, ...]:
    _check_arity("torch.Size", args, 1, 1)
    if not isinstance(args[0], tuple):
        raise Refused("a torch.Size is malformed", describe(args[0]))
    return args[0]


def _opaque_call(name: str) -> Callable[[tuple[Any, ...]], Opaque]:
    return lambda args: Opaque(name)


# Source: torch/storage.py (classes), torch/_utils.py and torch/_tensor.py (functions), torch 2.13.
STORAGES = {
    "DoubleStorage": "f64",
    "FloatStorage": "f32",
    "HalfStorage": "f16",
    "BFloat16Storage": "bf16",
    "LongStorage": "i64",
    "IntStorage": "i32",
    "ShortStorage": "i16",
    "CharStorage": "i8",
    "ByteStorage": "u8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "c64",
    "ComplexDoubleStorage": "c128",
    "UntypedStorage": None,
}
DTYPES = {
    "float64": "f64",
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
    "float8_e4m3fn": "f8_e4m3",
    "float8_e5m2": "f8_e5m2",
    "float8_e4m3fnuz": "f8_e4m3fnuz",
    "float8_e5m2fnuz": "f8_e5m2fnuz",
    "float8_e8m0fnu": "f8_e8m0",
    "int64": "i64",
    "int32": "i32",
    "int16": "i16",
    "int8": "i8",
    "uint64": "u64",
    "uint32": "u32",
    "uint16": "u16",
    "uint8": "u8",
    "bool": "bool",
    "complex64": "c64",
    "complex128": "c128",
}


def _allowed_globals() -> dict[str, Global]:
    calls: dict[str, Callable[[tuple[Any, ...]], Any]] = {
        "torch._utils._rebuild_tensor": _rebuild_tensor_v1,
        "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
        "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
        "torch._utils._rebuild_parameter": _rebuild_parameter,
        "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
        "torch._tensor._rebuild_from_type_v2": _rebuild_from_type_v2,
        "collections.OrderedDict": _ordered_dict,
        "torch.Size": _torch_size,
        "builtins.set": _opaque_call("set"),
        "__builtin__.set": _opaque_call("set"),
        "_codecs.encode": _opaque_call("bytes"),
    }
    table = {name: Global(name, "call", function) for name, function in calls.items()}
    for name, dtype in STORAGES.items():
        for module in ("torch", "torch.storage"):
            table[f"{module}.{name}"] = Global(f"{module}.{name}", "storage", dtype)
    for name, dtype in DTYPES.items():
        table[f"torch.{name}"] = Global(f"torch.{name}", "dtype", dtype)
    for name in ("torch.Tensor", "torch.nn.parameter.Parameter"):
        table[name] = Global(name, "class", None)
    return table


ALLOWED = _allowed_globals()


def _check_arity(name: str, args: tuple[Any, ...], low: int, high: int) -> None:
    if not low <= len(args) <= high:
        raise Refused(f"{name} has {len(args)} arguments", expected=low)


def is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63
