"""By which names a checkpoint is told to be Lit-GPT's. Imports nothing else of Lit-GPT's: every checkpoint is asked."""

from __future__ import annotations

import re
from collections.abc import Mapping

from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.errors import ArchitectureError

_MARK = re.compile(
    r"transformer\.h\.\d+\.(attn\.(qkv|attn|q_a_proj|kv_a_proj_with_mqa)\.|rms_1\.scale|.*\.lora_[AB]$|attn\.(gating_factor|adapter_wte)|.*\.adapter_(bias|scale)$)"
)


def lit_names(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """By the names of a plain model: without what torch.compile and unmerged LoRA modules put into them."""
    plain = {name.replace("_orig_mod.", "").replace(".linear.", "."): tensor for name, tensor in tensors.items()}
    if len(plain) != len(tensors):
        raise ArchitectureError("holds the same tensor under several names", tensor=min(set(tensors) - set(plain)))
    return plain


def holds_lit_names(tensors: Mapping[str, LazyTensor]) -> bool:
    """Whether names are Lit-GPT's: a model's, a LoRA's or an adapter's."""
    return any(_MARK.match(name.replace("_orig_mod.", "").replace(".linear.", ".")) for name in tensors)
