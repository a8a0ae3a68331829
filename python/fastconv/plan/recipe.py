"""The type of every tensor of a GGUF file: a mixture, what options override, what stands in where rows do not fit.

Source: llama.cpp b11434, src/llama-quant.cpp (tensor_allows_quantization, llama_tensor_get_type, tensor_type_fallback,
tensor_requires_imatrix). Knows names in GGUF's spelling and shapes; reads no tensor.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from fastconv.errors import PlanError, UsageError
from fastconv.plan.file_types import FileType
from fastconv.plan.mixtures import (
    EMBEDDINGS,
    OUTPUT,
    UNDER_3_BITS,
    ModelFacts,
    Place,
    Role,
    mixture_type,
    output_type,
    role_of,
)
from fastconv.record import record
from fastconv.request import ConvertRequest
from fastconv.types import TYPES

if TYPE_CHECKING:
    from fastconv.checkpoint.imatrix import ImportanceMatrix


class UnquantizedTensor(NamedTuple):
    """A tensor as llama-quantize would find it.

    name: GGUF's. shape: output dimension first. type: what it keeps if it is not quantized.
    """

    name: str
    shape: tuple[int, ...]
    type: str


@record
class Recipe:
    """How the types of a quantized file are chosen, beyond its file type: llama-quantize's options.

    pure: no mixtures. leave_output: output.weight stays as it is. output_type, embedding_type: of output.weight and of
    the token embeddings. patterns: (regular expression searched in names, type), the first that is found counts.
    imatrix: the importance matrix, whose presence changes some mixtures.
    """

    pure: bool = False
    leave_output: bool = False
    output_type: str | None = None
    embedding_type: str | None = None
    patterns: tuple[tuple[re.Pattern[str], str], ...] = ()
    imatrix: ImportanceMatrix | None = None

    @property
    def changes_float_files(self) -> bool:
        """Whether a file of a float type differs from what llama.cpp's converter writes."""
        return self.leave_output or self.output_type is not None or self.embedding_type is not None


PLAIN = Recipe()


def recipe_for(request: ConvertRequest, imatrix: ImportanceMatrix | None, file_types: Sequence[FileType]) -> Recipe:
    """The recipe that the options ask for.

    file_types: of all outputs. Raises UsageError for a type or a pattern that is none, and for options that would
    change none of the outputs, which llama-quantize ignores in silence.
    """
    if all(file_type.is_float or file_type.keeps for file_type in file_types):
        for option, value in (("--tensor-type", request.tensor_types), ("--imatrix", imatrix)):
            if value:
                found = ", ".join(file_type.name for file_type in file_types)
                raise UsageError(f"{option} changes quantized types only", found=found, expected="one such as q4_k_m")
    return Recipe(
        request.pure,
        request.leave_output_tensor,
        _named_type("--output-tensor-type", request.output_tensor_type),
        _named_type("--token-embedding-type", request.token_embedding_type),
        tuple((_pattern(text), _named_type("--tensor-type", name) or "") for text, name in request.tensor_types),
        imatrix,
    )


# Parts of the names of tensors that are never quantized.
_NEVER = (
    *("_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel", "per_layer_model_proj"),
    *("ssm_conv1d", "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight"),
    *(f"time_mix_{part}.weight" for part in ("first", "w0", "w1", "w2", "v0", "v1", "v2", "a0", "a1", "a2", "g1")),
    *(f"time_mix_{part}.weight" for part in ("g2", "decay_w1", "decay_w2", "lerp_fused")),
    *("attn_rel_b.weight", ".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_", ".rel_pos", ".patch_embd"),
    *(".patch_merger", "a.rvq.codebook", "mm.a.code_embd"),
)
_NEVER_WHOLE = ("position_embd.weight", "token_types.weight")
_NEVER_IN = {
    "glm5-next": (
        *("hc_", "indexer.attn_q_b", "indexer.attn_k", "indexer.proj", "indexer_compressor_gate"),
        *("indexer_compressor_ape", "ssm_f_a.weight", "ssm_f_b.weight", "ssm_g_a.weight", "ssm_g_b.weight"),
        *("ssm_beta.weight", "attn_kv_a_mqa.weight", "attn_k_b.weight", "attn_v_b.weight"),
    )
}
_AT_LEAST_Q8_0_IN = {"glm5-next": ("attn_q_a", "attn_q_b", "nextn.eh_proj")}

# Where rows do not divide into the blocks of a type: what stands in for it. Where they do not divide into those either,
# or the type's blocks are small already, f16 does.
_FALLBACK = {
    **dict.fromkeys(("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_xs"), "iq4_nl"),
    **dict.fromkeys(("q2_k", "q3_k", "tq1_0", "tq2_0"), "q4_0"),
    "q4_k": "q5_0",
    "q5_k": "q5_1",
    "q6_k": "q8_0",
}
_LAST_RESORT = "f16"

# Counted in the order in which llama-quantize meets them, unless the model has experts: then a layer is what its name
# says.
_BY_LAYER = (Role.FFN_UP, Role.FFN_GATE, Role.FFN_DOWN)

# Types that are refused without an importance matrix, the embeddings and the output excepted.
_NEED_IMPORTANCE = ("iq3_xxs", "iq2_xxs", "iq2_xs", "iq2_s", "iq1_m", "iq1_s")


def tensor_types(
    tensors: Sequence[UnquantizedTensor], file_type: FileType, model: ModelFacts, recipe: Recipe
) -> dict[str, str]:
    """The type of every tensor, by name, in the order in which llama-quantize writes them.

    Raises PlanError where a type cannot hold a tensor and no other stands in for it, and for a pattern that matches no
    tensor that could be quantized.
    """
    ordered = sorted(tensors, key=lambda tensor: quantizer_order(tensor.name))
    _check_patterns(tensors, model, recipe)
    chooser = _TypeChooser(file_type, model, recipe, ordered)
    return {tensor.name: chooser.type_of(tensor) for tensor in ordered}


def quantizer_order(name: str) -> tuple[int, bytes]:
    """Sorts as llama-quantize writes: by layer, those of no layer first, then by name.

    Source: llama.cpp b11434, src/llama-model-loader.h (weight_name_comparer).
    """
    layer = _layer(name)
    return -1 if layer is None else layer, name.encode()


def requires_importance(name: str, type_name: str, file_type: FileType) -> bool:
    """Whether llama-quantize refuses to write the tensor without its importance."""
    if name in EMBEDDINGS or name == OUTPUT:
        return False
    return type_name in _NEED_IMPORTANCE or (type_name == "q2_k" and file_type.name == "q2_k_s")


def fitting_type(type_name: str, name: str, n_cols: int) -> str:
    """The type itself, or what llama.cpp writes instead where rows of n_cols do not divide into its blocks.

    name: of the tensor. Raises PlanError where nothing stands in for the type.
    """
    size = TYPES[type_name].block_size
    if n_cols % size == 0:
        return type_name
    if type_name not in _FALLBACK and size > 32:
        raise _does_not_fit(type_name, name, n_cols)
    candidate = _FALLBACK.get(type_name, type_name)
    return candidate if n_cols % TYPES[candidate].block_size == 0 else _LAST_RESORT


@dataclass(slots=True, eq=False)
class _TypeChooser:
    """One file's tensors in turn: what the recipes count is kept here."""

    file_type: FileType
    model: ModelFacts
    recipe: Recipe
    tensors: Sequence[UnquantizedTensor]
    seen: dict[Role, int] = field(default_factory=dict)
    n_values: int = field(init=False)
    tied: bool = field(init=False)

    def __post_init__(self) -> None:
        roles = [role_of(tensor.name) for tensor in self.tensors]
        self.n_values = roles.count(Role.ATTENTION_V)
        self.tied = Role.OUTPUT not in roles

    def type_of(self, tensor: UnquantizedTensor) -> str:
        name, n_cols = tensor.name, tensor.shape[-1] if tensor.shape else 1
        recipe, role = self.recipe, role_of(name)
        if not is_quantizable(name, tensor.shape, self.model) or (recipe.leave_output and name == OUTPUT):
            return tensor.type
        matched = next((chosen for pattern, chosen in recipe.patterns if pattern.search(name)), None)
        # An explicit pattern may name the second, separate table of embeddings.
        if recipe.embedding_type and role is Role.EMBEDDING and (name == EMBEDDINGS[0] or matched is None):
            return _holding(recipe.embedding_type, name, n_cols)
        if recipe.output_type and role is Role.OUTPUT:
            return _holding(recipe.output_type, name, n_cols)
        if self.file_type.is_float:
            return self.file_type.type
        if matched is None:
            matched = self.file_type.type if recipe.pure else self._mixed(name, n_cols, role)
        return fitting_type(matched, name, n_cols)

    def _mixed(self, name: str, n_cols: int, role: Role) -> str:
        """What the mixture gives the tensor, were its rows of the right length."""
        if any(part in name for part in _AT_LEAST_Q8_0_IN.get(self.model.architecture, ())):
            return "q8_0"
        if role is Role.OUTPUT or (self.tied and role is Role.EMBEDDING):
            return self.recipe.output_type or output_type(self.file_type, self.model, n_cols)
        return mixture_type(self.file_type, role, self._place(role, name))

    def _place(self, role: Role, name: str) -> Place:
        """Where the tensor stands; counts it."""
        i = self.seen.get(role, 0)
        self.seen[role] = i + 1
        n = self.model.n_layer if role in _BY_LAYER else self.n_values
        # Experts stand in no order, but mixtures of under three bits count them all the same.
        if role in _BY_LAYER and self.model.n_expert > 1 and self.file_type.name not in UNDER_3_BITS:
            layer = _layer(name)
            if layer is None or layer >= n:
                raise PlanError("has no layer that the recipe could go by", tensor=name, expected=f"one of {n} layers")
            i = layer
        return Place(i, n, self.model, self.recipe.imatrix is not None)


def is_quantizable(name: str, shape: Sequence[int], model: ModelFacts) -> bool:
    """Whether llama-quantize would quantize a tensor."""
    if len(ggml_shape(shape)) < 2 or not name.endswith("weight") or name in _NEVER_WHOLE:
        return False
    return not any(map(name.__contains__, (*_NEVER, *_NEVER_IN.get(model.architecture, ()))))


def ggml_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape as ggml counts it: leading dimensions of 1 are none, and a single element has one."""
    first = next((i for i, n in enumerate(shape) if n != 1), len(shape))
    return tuple(shape[first:]) or (1,)


def _holding(type_name: str, name: str, n_cols: int) -> str:
    """A type that was asked for by name has nothing to stand in for it."""
    if n_cols % TYPES[type_name].block_size:
        raise _does_not_fit(type_name, name, n_cols)
    return type_name


def _does_not_fit(type_name: str, name: str, n_cols: int) -> PlanError:
    return PlanError(
        f"{type_name} cannot hold it",
        tensor=name,
        found=f"rows of {n_cols} elements",
        expected=f"a multiple of {TYPES[type_name].block_size}",
        fix="choose another type",
    )


def _check_patterns(tensors: Sequence[UnquantizedTensor], model: ModelFacts, recipe: Recipe) -> None:
    if not recipe.patterns:
        return
    names = [tensor.name for tensor in tensors if is_quantizable(tensor.name, tensor.shape, model)]
    for pattern, _ in recipe.patterns:
        if names and not any(pattern.search(name) for name in names):
            raise PlanError(
                "--tensor-type matches no tensor that can be quantized",
                found=pattern.pattern,
                expected=f"a part of a name such as {names[-1]}",
            )


def _named_type(option: str, name: str | None) -> str | None:
    if name is None:
        return None
    known = [info.name for info in TYPES.values() if info.ggml_type >= 0 and (info.encodes or info.block_size > 1)]
    if name.lower() not in known:
        raise UsageError(f"{option} names no tensor type", found=name, expected=f"one of {', '.join(known)}")
    return name.lower()


def _pattern(text: str) -> re.Pattern[str]:
    """Case does not count: llama-quantize lowers the pattern, and names are lower-case."""
    if "[:" in text:
        raise UsageError("--tensor-type has a class such as [:digit:]", found=text, fix="write [0-9] or the like")
    try:
        return re.compile(text, re.IGNORECASE | re.ASCII)
    except (re.error, RecursionError, OverflowError) as error:
        raise UsageError("--tensor-type is no regular expression", found=f"{text}: {error}") from None


def _layer(name: str) -> int | None:
    found = re.match(r"blk\.(\d+)\.", name)
    return None if found is None else int(found[1])
