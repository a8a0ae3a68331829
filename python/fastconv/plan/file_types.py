"""What --outtype can name. Which type each tensor of such a file gets is the recipe's (recipe.py).

Source: llama.cpp b11434, tools/quantize/quantize.cpp (names) and src/llama-quant.cpp (llama_ftype_get_default_type).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from fastconv.errors import PlanError, UsageError
from fastconv.record import record
from fastconv.types import TYPES


@record(eq=True)
class FileType:
    """name: as typed. type: block type of most matrices. gguf_name: member of gguf.LlamaFileType.

    keeps: every tensor stays in the type it has, as far as the target can hold it.
    """

    name: str
    type: str
    gguf_name: str
    keeps: bool = False

    @property
    def is_float(self) -> bool:
        return TYPES[self.type].block_size == 1


# Where the letter is not the type's own name, it stands for a mixture of types.
FILE_TYPES: dict[str, FileType] = {
    name: FileType(name, block_type, gguf_name)
    for name, block_type, gguf_name in (
        ("f32", "f32", "ALL_F32"),
        ("f16", "f16", "MOSTLY_F16"),
        ("bf16", "bf16", "MOSTLY_BF16"),
        ("q8_0", "q8_0", "MOSTLY_Q8_0"),
        ("q5_1", "q5_1", "MOSTLY_Q5_1"),
        ("q5_0", "q5_0", "MOSTLY_Q5_0"),
        ("q4_1", "q4_1", "MOSTLY_Q4_1"),
        ("q4_0", "q4_0", "MOSTLY_Q4_0"),
        ("q6_k", "q6_k", "MOSTLY_Q6_K"),
        ("q5_k_m", "q5_k", "MOSTLY_Q5_K_M"),
        ("q5_k_s", "q5_k", "MOSTLY_Q5_K_S"),
        ("q4_k_m", "q4_k", "MOSTLY_Q4_K_M"),
        ("q4_k_s", "q4_k", "MOSTLY_Q4_K_S"),
        ("q3_k_l", "q3_k", "MOSTLY_Q3_K_L"),
        ("q3_k_m", "q3_k", "MOSTLY_Q3_K_M"),
        ("q3_k_s", "q3_k", "MOSTLY_Q3_K_S"),
        ("q2_k", "q2_k", "MOSTLY_Q2_K"),
        ("q2_k_s", "q2_k", "MOSTLY_Q2_K_S"),
        ("iq4_nl", "iq4_nl", "MOSTLY_IQ4_NL"),
        ("iq4_xs", "iq4_xs", "MOSTLY_IQ4_XS"),
        ("iq3_m", "iq3_s", "MOSTLY_IQ3_M"),
        ("iq3_s", "iq3_s", "MOSTLY_IQ3_S"),
        ("iq3_xs", "iq3_s", "MOSTLY_IQ3_XS"),
        ("iq3_xxs", "iq3_xxs", "MOSTLY_IQ3_XXS"),
        ("iq2_m", "iq2_s", "MOSTLY_IQ2_M"),
        ("iq2_s", "iq2_xs", "MOSTLY_IQ2_S"),
        ("iq2_xs", "iq2_xs", "MOSTLY_IQ2_XS"),
        ("iq2_xxs", "iq2_xxs", "MOSTLY_IQ2_XXS"),
        ("iq1_m", "iq1_m", "MOSTLY_IQ1_M"),
        ("iq1_s", "iq1_s", "MOSTLY_IQ1_S"),
        ("tq2_0", "tq2_0", "MOSTLY_TQ2_0"),
        ("tq1_0", "tq1_0", "MOSTLY_TQ1_0"),
    )
}

KEPT = FileType("kept", "f32", "", keeps=True)

ALIASES = {"q5_k": "q5_k_m", "q4_k": "q4_k_m", "q3_k": "q3_k_m"}


def file_type(name: str) -> FileType:
    """The file type called `name`, in any case. Raises UsageError for an unknown name."""
    lower = name.lower()
    try:
        return FILE_TYPES[ALIASES.get(lower, lower)]
    except KeyError:
        raise UsageError("unknown output type", found=name, expected=f"one of auto, {', '.join(FILE_TYPES)}") from None


def auto_file_type(types: list[str]) -> FileType:
    """The file type that keeps the input's precision: that of its matrices, the widest if they differ.

    types: type names of the source's matrices; where some are quantized, each keeps its own, under the name of the most
    common. Raises PlanError if there is none.
    """
    if not types:
        raise PlanError("the input has no matrices to tell the output type from", fix="give --outtype")
    blocks = Counter(todays_type(name) for name in types if name in TYPES and TYPES[name].block_size > 1)
    if blocks:
        [(most, _)] = blocks.most_common(1)
        return replace(FILE_TYPES.get(ALIASES.get(most, most), KEPT), keeps=True)
    found = set(types)
    if found & {"f32", "f64"} or {"f16", "bf16"} <= found:
        return FILE_TYPES["f32"]
    return FILE_TYPES["f16"] if "f16" in found else FILE_TYPES["bf16"]


# What has no type of its own in GGUF files.
_REPLACED = dict(
    (
        *(("q4_2", "q4_0"), ("q4_3", "q4_1"), ("q4_0_planar", "q4_0"), ("q4_1_planar", "q4_1")),
        *(("f64", "f32"), ("f8_e4m3", "bf16"), ("f8_e5m2", "bf16")),
    )
)


def todays_type(type_name: str) -> str:
    """What GGUF holds in place of a type: its own of the same levels, or the nearest."""
    return _REPLACED.get(type_name, TYPES[type_name].today if type_name in TYPES else type_name)
