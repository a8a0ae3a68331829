"""File types and the block type each gives to each tensor: llama.cpp's recipes as one table-like page.

Source: llama.cpp b11434, src/llama-quant.cpp (llama_tensor_get_type, tensor_type_fallback, tensor_allows_quantization)
and conversion/base.py (prepare_tensors) for the float types. Knows names in GGUF's spelling; reads no tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastconv.errors import PlanError, UsageError
from fastconv.types import TYPES


@dataclass(frozen=True, slots=True)
class FileType:
    """What --outtype names.

    name: as typed. type: block type of most matrices. gguf_name: member of gguf.LlamaFileType. keeps: every tensor
    stays in the type it has, as far as the target can hold it.
    """

    name: str
    type: str
    gguf_name: str
    keeps: bool = False

    @property
    def is_float(self) -> bool:
        return TYPES[self.type].block_size == 1


FILE_TYPES: dict[str, FileType] = {
    name: FileType(name, name, gguf_name)
    for name, gguf_name in (
        ("f32", "ALL_F32"),
        ("f16", "MOSTLY_F16"),
        ("bf16", "MOSTLY_BF16"),
        ("q8_0", "MOSTLY_Q8_0"),
        ("q5_1", "MOSTLY_Q5_1"),
        ("q5_0", "MOSTLY_Q5_0"),
        ("q4_1", "MOSTLY_Q4_1"),
        ("q4_0", "MOSTLY_Q4_0"),
        ("q6_k", "MOSTLY_Q6_K"),
    )
}

KEPT = FileType("kept", "f32", "", keeps=True)

# Where rows do not divide into a type's blocks: the type of 32 that stands in for one of 256.
_FALLBACK = {"q6_k": "q8_0"}
_LAST_RESORT = "f16"


def file_type(name: str) -> FileType:
    """The file type called `name`, in any case. Raises UsageError for an unknown name."""
    try:
        return FILE_TYPES[name.lower()]
    except KeyError:
        raise UsageError("unknown output type", found=name, expected=f"one of auto, {', '.join(FILE_TYPES)}") from None


def tensor_type(name: str, shape: tuple[int, ...], file_type: FileType, *, pure: bool, tied: bool) -> str:
    """The type of one tensor of a GGUF file.

    name: in GGUF's naming. shape: output dimension first. pure: one type for every matrix. tied: the model has no
    output.weight, so that its embedding serves as one.
    """
    if not _is_quantizable(name, shape):
        return "f32"
    if file_type.is_float:
        return file_type.type
    n_cols = shape[-1]
    chosen = file_type.type
    if not pure and (name == "output.weight" or (tied and name == "token_embd.weight")):
        if n_cols % TYPES[chosen].block_size:
            chosen = "q8_0"
        elif chosen != "q8_0":
            chosen = "q6_k"
    return fitting_type(chosen, n_cols)


def fitting_type(type_name: str, n_cols: int) -> str:
    """The type itself, or what llama.cpp writes instead where rows of n_cols do not divide into its blocks."""
    for candidate in (type_name, _FALLBACK.get(type_name, type_name)):
        if n_cols % TYPES[candidate].block_size == 0:
            return candidate
    return _LAST_RESORT


def auto_file_type(types: list[str]) -> FileType:
    """The file type that keeps the input's precision: that of its matrices, the widest if they differ.

    types: type names of the source's matrices. Raises PlanError if there is none.
    """
    if not types:
        raise PlanError("the input has no matrices to tell the output type from", fix="give --outtype")
    found = set(types)
    if found & {"f32", "f64"} or {"f16", "bf16"} <= found:
        return FILE_TYPES["f32"]
    return FILE_TYPES["f16"] if "f16" in found else FILE_TYPES["bf16"]


def _is_quantizable(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) >= 2 and name.endswith("weight") and not name.endswith("_norm.weight")
