"""Opens a LoRA adapter in GGUF, as llama.cpp's convert_lora_to_gguf.py writes it, as if PEFT had saved it.

Source: llama.cpp b11434, convert_lora_to_gguf.py (names, alpha, the transposed factor of embeddings) and
src/llama-adapter.cpp (scale). Its factors B of rotating heads have GGUF's order of rows.
"""

from __future__ import annotations

import re
from typing import Any

from fastconv.adapter.config import LoraConfig
from fastconv.adapter.peft import LoraPair, PeftAdapter, WholeTensor
from fastconv.architecture.canonical import instances
from fastconv.architecture.gguf_keys import gguf_names
from fastconv.architecture.rope import halves_from_interleaved
from fastconv.architecture.spec import CanonicalModel, TensorRule
from fastconv.checkpoint.checkpoint import Checkpoint
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.errors import AdapterError
from fastconv.types import TYPES

_FACTOR = re.compile(r"(?P<base>.+)\.lora_(?P<factor>[ab])")
_EMBEDDING = "token_embd.weight"


def open_gguf_adapter(checkpoint: Checkpoint, model: CanonicalModel) -> PeftAdapter:
    """Modules and rows as Hugging Face has them.

    Raises AdapterError for a file that is no LoRA adapter, is one of another architecture, or holds a tensor that is no
    factor, has no other half, or names a tensor that the model does not have.
    """
    path = checkpoint.path
    alpha = _check_keys(checkpoint, model)
    rules: dict[str, TensorRule] = {name: rule for rule, _, name in instances(model.spec, model.hparams)}
    canonical = {stored: name for name, stored in gguf_names(model.spec, rules).items()}
    halves: dict[str, dict[str, LazyTensor]] = {}
    whole: list[WholeTensor] = []
    for name, tensor in checkpoint.tensors.items():
        info = TYPES.get(tensor.dtype)
        if info is None or not info.decodes or (info.block_size > 1 and name.startswith(_EMBEDDING)):
            raise AdapterError("has a type that cannot be applied", file=path, tensor=name, found=tensor.dtype)
        match = _FACTOR.fullmatch(name)
        stored = match["base"] if match else name
        if stored not in canonical:
            raise AdapterError("the model has no such tensor", file=path, tensor=name)
        if match:
            halves.setdefault(canonical[stored], {})[match["factor"]] = tensor
        elif stored.endswith("_norm.weight"):
            whole.append(WholeTensor(canonical[stored], tensor, is_base=False))
        else:
            raise AdapterError("is neither a factor nor a norm", file=path, tensor=name)
    pairs = [_pair(path, name, found, rules[name], model) for name, found in halves.items()]
    ranks = {pair.module: pair.b.shape[-1] for pair in pairs}
    # Without an alpha the product is added as it is.
    alphas = {module: alpha or float(rank) for module, rank in ranks.items()}
    config = LoraConfig(
        path=path,
        rank=next(iter(ranks.values()), 1),
        alpha=next(iter(alphas.values()), 1.0),
        use_rslora=False,
        use_dora=False,
        lora_bias=False,
        rank_pattern=_exceptions(ranks),
        alpha_pattern=_exceptions(alphas),
    )
    return PeftAdapter(path, path, config, len(checkpoint.tensors), tuple(pairs), tuple(whole))


def _check_keys(checkpoint: Checkpoint, model: CanonicalModel) -> float:
    """The adapter's alpha."""
    values, path = checkpoint.metadata, checkpoint.path
    for key, expected in (
        ("general.type", "adapter"),
        ("adapter.type", "lora"),
        ("general.architecture", model.spec.name),
    ):
        if values.get(key) != expected:
            raise AdapterError(f"{key} does not fit", file=path, found=str(values.get(key))[:80], expected=expected)
    if "adapter.alora.invocation_tokens" in values:
        raise AdapterError("acts on some tokens only (aLoRA): it cannot be merged", file=path)
    alpha = values.get("adapter.lora.alpha")
    if type(alpha) is not float or not abs(alpha) < 1e30:
        raise AdapterError("adapter.lora.alpha is missing or no number", file=path, found=str(alpha)[:80])
    return alpha


def _pair(path: str, name: str, found: dict[str, LazyTensor], rule: TensorRule, model: CanonicalModel) -> LoraPair:
    present = next(iter(found.values()))
    if len(found) < 2:
        raise AdapterError("has no other factor beside it", file=path, tensor=present.name)
    for factor in found.values():
        if len(factor.shape) != 2 or 0 in factor.shape:
            raise AdapterError("is not a matrix", file=path, tensor=factor.name, found=list(factor.shape))
    a, b = found["a"], found["b"]
    is_embedding = a.name.startswith(_EMBEDDING)
    if is_embedding:
        a = a.transposed()
    if rule.rope_heads is not None:
        index = halves_from_interleaved(getattr(model.hparams, rule.rope_heads), model.hparams.head_dim)
        if len(index) == b.shape[0]:  # if not, the shapes are refused where all are checked
            b = b.with_rows(index)
    return LoraPair(name.removesuffix(".weight"), a, b, None, None, is_embedding)


def _exceptions(values: dict[str, Any]) -> dict[str, Any]:
    """What differs from the first, by patterns that match one module each."""
    first = next(iter(values.values()), None)
    return {re.escape(module): value for module, value in values.items() if value != first}
