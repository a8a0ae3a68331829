"""A Lit-GPT checkpoint of any era -> its tensors under Hugging Face's names, proven complete; no data is moved.

Eras are told apart by names; what names and shapes do not say comes from the settings beside the checkpoint, from
LitGPT's settings of a named model, or is asked for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NoReturn

from fastconv.architecture.hparams import Given
from fastconv.architecture.litgpt import namings
from fastconv.architecture.litgpt.classes import (
    ModelClass,
    class_of_config,
    classes_of_naming,
    is_tied,
)
from fastconv.architecture.litgpt.config import (
    CONFIG_NAMES,
    LitConfig,
    config_of_name,
    known_configs,
    read_lit_config,
)
from fastconv.architecture.litgpt.gemma3 import text_config
from fastconv.architecture.litgpt.mapping import INTERLEAVED, SPLIT, Sizes, head_names, shared_rows
from fastconv.architecture.litgpt.marks import lit_names
from fastconv.architecture.litgpt.model import Heads, heads_of_config
from fastconv.architecture.litgpt.namings import NAMINGS, Naming
from fastconv.architecture.litgpt.settings import hf_config
from fastconv.architecture.spec import NamedModel
from fastconv.checkpoint.checkpoint import Checkpoint
from fastconv.checkpoint.content import same_content
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.errors import AdapterError, ArchitectureError

_LAYER = "transformer.h."
_LORA = re.compile(r".*\.lora_[AB]")
_ADAPTER = re.compile(r".*(gating_factor|adapter_wte|adapter_bias|adapter_scale).*")
_MERGED_NAME = "lit_model_lora_merged.pth"  # its LoRA tensors stand beside weights that hold them already


def model_from_litgpt(checkpoint: Checkpoint, given: Given) -> NamedModel:
    """The checkpoint under canonical names.

    Raises ArchitectureError where the checkpoint is incomplete, disagrees with its settings, is no model, or leaves
    open what must be known.
    """
    path = checkpoint.path
    tensors = _model_tensors(checkpoint, given.has_lora)
    layout = qkv_layout(path, tensors)
    sizes = _sizes(path, tensors)
    lit = config_of_name(given.model_name) if given.model_name is not None else read_lit_config(checkpoint.directory)
    config = text_config(checkpoint.config)
    tensors, fitting = _with_families(tensors)
    if lit is None and not config:
        lit = _recognized(path, sizes, fitting)
    entry = _model_class(path, tensors, config, lit, fitting)
    heads = _heads(entry, config, lit)
    _check_heads(path, sizes, heads, lit)
    sizes = _with_head_size(sizes, heads, tensors)
    if not config:
        assert lit is not None
        config = hf_config(entry, lit)
    config = config | {"vocab_size": sizes.n_vocab}
    return _renamed(checkpoint, entry, sizes, layout, tensors, config)


def _model_tensors(checkpoint: Checkpoint, has_lora: bool) -> dict[str, LazyTensor]:
    """Those of a model. Raises AdapterError or ArchitectureError where it holds something else."""
    path, tensors = checkpoint.path, lit_names(checkpoint.tensors)
    adapter = next((name for name in tensors if _ADAPTER.fullmatch(name)), None)
    if adapter is not None:
        raise AdapterError(
            "belongs to LLaMA-Adapter fine-tuning, whose gates no other format can express",
            file=path,
            tensor=adapter,
            fix="fine-tune with LoRA, or fully",
        )
    plain = {name: tensor for name, tensor in tensors.items() if not _LORA.fullmatch(name)}
    if not plain:
        raise AdapterError("is a LoRA without its base", file=path, fix="give the base as the source, this with --lora")
    if os.path.basename(path) == _MERGED_NAME and has_lora:
        raise AdapterError("holds a LoRA that is merged already", file=path, fix="leave --lora out, or give the base")
    if len(plain) != len(tensors) and not has_lora and os.path.basename(path) != _MERGED_NAME:
        raise AdapterError("holds a LoRA that is not merged", file=path, fix="give the file with --lora as well")
    return plain


def qkv_layout(path: str, tensors: Mapping[str, LazyTensor]) -> str:
    """Split or interleaved, by the names in a file. Raises ArchitectureError where they are neither's or both's."""
    found = {
        layout
        for layout, word in ((SPLIT, ".attn.qkv."), (INTERLEAVED, ".attn.attn."))
        if any(word in name for name in tensors)
    }
    if len(found) != 1:
        odd = next((name for name in tensors if "_a_proj" in name), None)
        if odd is not None:
            raise ArchitectureError("belongs to a model with latent attention: not supported", file=path, tensor=odd)
        older = next((name for name in tensors if name.endswith(".rms_1.scale")), None)
        if older is not None:
            raise ArchitectureError(
                "belongs to a model of lit-llama, not Lit-GPT: not supported", file=path, tensor=older
            )
        raise ArchitectureError("is no Lit-GPT model: it has no attn.qkv or attn.attn, or both", file=path)
    return found.pop()


def _sizes(path: str, tensors: Mapping[str, LazyTensor]) -> Sizes:
    """All but the heads' size, from shapes."""

    def shape(name: str) -> tuple[int, int]:
        if name not in tensors:
            raise ArchitectureError("is missing", file=path, tensor=name, fix="copy the checkpoint again")
        found = tensors[name].shape
        if len(found) != 2:
            raise ArchitectureError("is no matrix", file=path, tensor=name, found=list(found))
        return found[0], found[1]

    split, interleaved = f"{_LAYER}0.attn.qkv.weight", f"{_LAYER}0.attn.attn.weight"
    qkv = interleaved if interleaved in tensors else split
    n_vocab, n_embd = shape("transformer.wte.weight")
    n_q = shape(f"{_LAYER}0.attn.proj.weight")[1]
    n_kv, odd = divmod(shape(qkv)[0] - n_q, 2)
    if n_kv < 1 or odd:
        raise ArchitectureError("its rows are no q, k and v", file=path, tensor=qkv, found=list(tensors[qkv].shape))
    numbers = [int(match[1]) for name in tensors if (match := re.match(r"transformer\.h\.(\d+)\.", name))]
    experts = [int(match[1]) for name in tensors if (match := re.search(r"\.mlp\.experts\.(\d+)\.", name))]
    mlp = next((n for n in ("mlp.fc", "mlp.fc_1") if f"{_LAYER}0.{n}.weight" in tensors), None)
    n_layer, n_expert = max(numbers) + 1, max(experts, default=-1) + 1
    if max(n_layer, n_expert) > len(tensors):
        raise ArchitectureError("layers or experts are missing", file=path, found=f"{len(tensors)} tensors")
    return Sizes(
        n_layer=n_layer,
        n_vocab=n_vocab,
        n_embd=n_embd,
        n_q=n_q,
        n_kv=n_kv,
        n_ff=shape(f"{_LAYER}0.{mlp}.weight")[0] if mlp else 0,
        n_expert=n_expert,
        n_ff_expert=shape(f"{_LAYER}0.mlp.experts.0.fc_1.weight")[0] if n_expert else 0,
    )


def _with_families(tensors: dict[str, LazyTensor]) -> tuple[dict[str, LazyTensor], list[Naming]]:
    """The tensors by their right names, and the families whose tables have these."""
    found = {_template(name) for name in tensors}
    fitting = [naming for naming in NAMINGS if _templates(naming) == found]
    if not fitting:
        # LitGPT 0.4.6 and later take Gemma-2b for a Gemma 2.
        wrong, right = "post_attention_norm.weight", "norm_2.weight"
        renamed = {name.replace(wrong, right): tensor for name, tensor in tensors.items()}
        if len(renamed) == len(tensors) and {_template(name) for name in renamed} == _templates(namings.LLAMA):
            return renamed, [namings.LLAMA]
    return tensors, fitting


def _template(name: str) -> str:
    return re.sub(r"\.experts\.\d+\.", ".experts.N.", re.sub(r"\.h\.\d+\.", ".h.N.", name)).replace(
        ".attn.attn.", ".attn.qkv."
    )


def _templates(naming: Naming) -> set[str]:
    return {
        _template(f"{prefix}{name.format(expert=0)}.{parameter}")
        for modules, prefix in ((naming.top, ""), (naming.per_layer, f"{_LAYER}0."))
        for module in modules
        for name in module.lit
        for parameter in module.parameters
    }


def _recognized(path: str, sizes: Sizes, fitting: list[Naming]) -> LitConfig:
    """The model that LitGPT knows of these sizes. Raises ArchitectureError where there is none, or several that differ
    in more than their names."""
    same = [config for config in known_configs() if agrees(config, sizes) and class_of(config, fitting) is not None]
    if same and all(config.fields == same[0].fields for config in same):
        return same[0]
    raise ArchitectureError(
        "its settings are not beside it",
        file=path,
        found=f"the sizes of {', '.join(config.name for config in same[:6])}" if same else None,
        expected=", ".join(("config.json", *CONFIG_NAMES)),
        fix="give --model-name, or copy one of these files there",
    )


def agrees(config: LitConfig, sizes: Sizes) -> bool:
    """Whether a model with these settings has these sizes."""
    n_q, n_kv = config.n_head * config.head_size, config.n_query_groups * config.head_size
    n_vocab = config.get("padded_vocab_size")
    if n_vocab is None:
        step = config.size("padding_multiple")
        n_vocab = -(-config.size("vocab_size") // step) * step
    is_moe = config.get("mlp_class_name") == "LLaMAMoE"
    n_ff = config.get("moe_intermediate_size") if is_moe else None
    return (config.size("n_layer"), config.size("n_embd"), n_q, n_kv, n_ff or config.n_ff, n_vocab) == (
        sizes.n_layer,
        sizes.n_embd,
        sizes.n_q,
        sizes.n_kv,
        sizes.n_ff or sizes.n_ff_expert,
        sizes.n_vocab,
    )


def class_of(lit: LitConfig, fitting: list[Naming]) -> ModelClass | None:
    """The class of a model with Lit-GPT's settings, among the families whose names it has."""
    name = lit.name.lower()
    for naming in fitting:
        if (naming is namings.PHI3) != name.startswith(("phi-3", "phi-4")) and namings.PHI3 in fitting:
            continue
        for entry in classes_of_naming(naming):
            if entry.matches(lit):
                return entry
    return None


def _model_class(
    path: str, tensors: Mapping[str, LazyTensor], config: dict[str, Any], lit: LitConfig | None, fitting: list[Naming]
) -> ModelClass:
    config_file = os.path.join(os.path.dirname(path), "config.json")
    entry = class_of_config(config, config_file) if config else None
    if config and entry is None:
        found = config.get("architectures") or config.get("model_type")
        raise ArchitectureError(
            "Lit-GPT has no models of this architecture",
            file=config_file,
            found=found,
        )
    if entry is None and lit is not None:
        entry = class_of(lit, fitting)
    if entry is None or entry.naming not in fitting:
        _refuse_names(path, tensors, entry, lit)
    return entry


def _refuse_names(
    path: str, tensors: Mapping[str, LazyTensor], entry: ModelClass | None, lit: LitConfig | None
) -> NoReturn:
    """The first tensor that the nearest family lacks or has not got."""
    found = {_template(name) for name in tensors}
    nearest = entry.naming if entry is not None else min(NAMINGS, key=lambda naming: len(_templates(naming) ^ found))
    whose = f"the {nearest.name} family" if lit is None or not lit.name else f"{lit.name}, of the {nearest.name} family"
    surplus = [name for name in tensors if _template(name) not in _templates(nearest)]
    if surplus:
        raise ArchitectureError(f"is not a tensor of {whose}", file=path, tensor=surplus[0])
    missing = min(_templates(nearest) - found, default="")
    raise ArchitectureError(f"is missing: {whose} has it", file=path, tensor=missing.replace(".N.", ".0."))


def _heads(entry: ModelClass, config: dict[str, Any], lit: LitConfig | None) -> Heads:
    if config:
        return heads_of_config(entry, config)
    assert lit is not None
    return Heads(lit.n_head, lit.n_query_groups, lit.head_size, lit.file)


def _check_heads(path: str, sizes: Sizes, heads: Heads, lit: LitConfig | None) -> None:
    stated = [heads]
    if lit is not None and lit.file != heads.file:
        stated.append(Heads(lit.n_head, lit.n_query_groups, lit.head_size, lit.file))
    for said in stated:
        if (said.n_head * said.head_size, said.n_groups * said.head_size) != (sizes.n_q, sizes.n_kv):
            raise ArchitectureError(
                f"is not the model of {said.file}",
                file=path,
                found=f"{sizes.n_q} rows of q, {sizes.n_kv} of k",
                expected=f"{said.n_head} heads, {said.n_groups} groups of {said.head_size}",
            )
    if lit is not None and (lit.size("n_layer"), lit.size("n_embd")) != (sizes.n_layer, sizes.n_embd):
        raise ArchitectureError(
            f"is not the model of {lit.file}",
            file=path,
            found=f"{sizes.n_layer} layers of {sizes.n_embd}",
            expected=f"{lit.size('n_layer')} layers of {lit.size('n_embd')}",
        )


def _with_head_size(sizes: Sizes, heads: Heads, tensors: Mapping[str, LazyTensor]) -> Sizes:
    norms = {}
    for part, whole in (("q", sizes.n_q), ("k", sizes.n_kv)):
        norm = tensors.get(f"{_LAYER}0.attn.norm_{part}.weight")
        # Over all heads in OLMo 2, over each in Gemma 3 and Qwen3.
        norms[part] = whole if norm is not None and norm.shape == (whole,) else heads.head_size
    return replace(sizes, head_size=heads.head_size, n_norm_q=norms["q"], n_norm_k=norms["k"])


def _renamed(
    checkpoint: Checkpoint,
    entry: ModelClass,
    sizes: Sizes,
    layout: str,
    stored: Mapping[str, LazyTensor],
    config: dict[str, Any],
) -> NamedModel:
    tensors: dict[str, LazyTensor] = {}
    source_names: dict[str, str] = {}
    known: set[str] = set()
    for shared in shared_rows(entry.naming, sizes, layout):
        parts = []
        for name, shape, _ in shared.lit_spans():
            tensor = stored.get(name)
            if tensor is None:
                raise ArchitectureError(
                    "is missing", file=checkpoint.path, tensor=name, fix="copy the checkpoint again"
                )
            if tensor.shape != shape:
                raise ArchitectureError(
                    "has another shape than the rest of the model says",
                    file=checkpoint.path,
                    tensor=name,
                    found=list(tensor.shape),
                    expected=list(shape),
                )
            parts.append(tensor)
            known.add(name)
        joined = parts[0] if len(parts) == 1 else LazyTensor.joined(shared.hf[0], parts, axis=0)
        if shared.rows is not None:
            joined = joined.with_rows(shared.rows)
        for name, shape, begin in shared.hf_spans():
            tensors[name] = joined.row_range(begin, begin + shape[0]).renamed(name)
            source_names[name] = " + ".join(shared.lit)
    for name in stored:
        if name not in known:
            raise ArchitectureError("is not a tensor of this model", file=checkpoint.path, tensor=name)
    embedding, head = head_names(entry.naming)
    tied: dict[str, str] = {}
    if is_tied(entry, config):
        if _same(tensors[embedding], tensors[head]):
            del tensors[head]
            tied[head] = embedding
        else:  # fine-tuning moves the head of a tied model away from its embedding
            config = config | {"tie_word_embeddings": False}
    elif "tie_word_embeddings" not in config:
        config = config | {"tie_word_embeddings": False}
    return NamedModel(
        tensors=tensors,
        directory=checkpoint.directory,
        config=config,
        source_names=source_names,
        tied=tied,
        per_token=(embedding, head),
    )


def _same(first: LazyTensor, second: LazyTensor) -> bool:
    a, b = first.pieces[0], second.pieces[0]
    return (a.storage is b.storage and a.offset == b.offset and a.type == b.type) or same_content(first, second)
