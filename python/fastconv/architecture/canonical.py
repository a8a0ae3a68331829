"""Any checkpoint -> the canonical model: Hugging Face names, shapes and row order, proven complete.

Knows the tables and what they mean; knows no file format and no target.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastconv.architecture import gguf_keys, meta_params
from fastconv.architecture.hparams import Given, Hyperparameters
from fastconv.architecture.litgpt.marks import holds_lit_names
from fastconv.architecture.llama import LLAMA
from fastconv.architecture.registry import spec_for, spec_named
from fastconv.architecture.rope import halves_from_interleaved
from fastconv.architecture.spec import ArchitectureSpec, CanonicalModel, NamedModel, TensorRule
from fastconv.checkpoint.checkpoint import Checkpoint
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.errors import ArchitectureError, CheckpointError
from fastconv.types import TYPES

_META_EMBEDDING = "tok_embeddings.weight"
_ADAPTER = "this is an adapter: give it with --lora"
_CONFIG = "config.json"


def canonical_model(checkpoint: Checkpoint, given: Given | None = None) -> CanonicalModel:
    """The checkpoint under canonical names; no weights are read.

    Raises ArchitectureError where the configuration is missing or unknown, or a tensor is missing, surplus, of another
    shape than the configuration says or of a type without values.
    """
    given = given or Given()
    if checkpoint.format == "gguf":
        model = _from_gguf(checkpoint)
    elif checkpoint.format == "ggjt":
        model = _from_ggjt(checkpoint, given)
    elif holds_lit_names(checkpoint.tensors):
        from fastconv.architecture.litgpt.source import model_from_litgpt

        model = _proven(checkpoint, model_from_litgpt(checkpoint, given))
    elif holds_meta_names(checkpoint):
        model = _from_meta(checkpoint, given.n_ctx)
    else:
        model = _from_hf(checkpoint)
    stated = {name: getattr(given, name) for name in ("n_ctx", "norm_eps", "rope_base")}
    changes = {name: value for name, value in stated.items() if value is not None}
    return replace(model, hparams=replace(model.hparams, **changes)) if changes else model


def holds_meta_names(checkpoint: Checkpoint) -> bool:
    return _META_EMBEDDING in checkpoint.tensors


def instances(spec: ArchitectureSpec, hparams: Hyperparameters) -> Iterator[tuple[TensorRule, int | None, str]]:
    """Every tensor of a model, in the table's order: (rule, layer or None, canonical name)."""
    per_layer = [rule for rule in spec.rules if "{layer}" in rule.hf]
    for rule in spec.rules:
        if "{layer}" not in rule.hf and _exists(rule, hparams):
            yield rule, None, rule.hf
    for layer in range(hparams.n_layer):
        for rule in per_layer:
            if _exists(rule, hparams):
                yield rule, layer, rule.hf.format(layer=layer)


def meta_names(spec: ArchitectureSpec, hparams: Hyperparameters) -> dict[str, str]:
    """Canonical name -> Meta's, which GGJT files share."""
    return {name: rule.meta.format(layer=layer) for rule, layer, name in instances(spec, hparams)}


def rule_shape(rule: TensorRule, hparams: Hyperparameters) -> tuple[int, ...]:
    return tuple(getattr(hparams, attribute) for attribute in rule.shape)


def _exists(rule: TensorRule, hparams: Hyperparameters) -> bool:
    return rule.when is None or bool(getattr(hparams, rule.when))


def _from_hf(checkpoint: Checkpoint) -> CanonicalModel:
    config_path = os.path.join(checkpoint.directory, "config.json")
    if not checkpoint.config:
        is_adapter = any(".lora_" in name for name in checkpoint.tensors)
        raise ArchitectureError(
            "is missing: it names the architecture and its sizes",
            file=config_path,
            fix=_ADAPTER if is_adapter else "put it beside the weights",
        )
    spec = spec_for(checkpoint.config, config_path)
    tensors = _wanted(checkpoint.tensors, spec.ignored, checkpoint.path)
    # Configurations older than these keys leave it to the tensors.
    biases = {
        key: f"model.layers.0.{module}.bias" in tensors
        for key, module in (("attention_bias", "self_attn.q_proj"), ("mlp_bias", "mlp.up_proj"))
    }
    hparams = _located(spec, biases | checkpoint.config, config_path, len(tensors))
    return _checked(checkpoint, spec, hparams, tensors, checkpoint.config, {name: name for name in tensors})


def _from_gguf(checkpoint: Checkpoint) -> CanonicalModel:
    spec = spec_named(checkpoint.metadata.get("general.architecture"), checkpoint.path)
    wanted = _wanted(checkpoint.tensors, gguf_keys.IGNORED, checkpoint.path)
    config = gguf_keys.as_hf_config(checkpoint.metadata, checkpoint.tensors, checkpoint.path)
    config |= {"architectures": [spec.hf_classes[0]], "model_type": spec.name}
    keys = {key: f"{spec.name}.{stored}" for key, stored in gguf_keys.KEYS.items()}
    hparams = _located(spec, config, checkpoint.path, len(wanted), keys)
    names = gguf_keys.gguf_names(spec, [name for _, _, name in instances(spec, hparams)])
    return _renamed(checkpoint, spec, hparams, wanted, names, config)


def _from_meta(checkpoint: Checkpoint, n_ctx: int | None) -> CanonicalModel:
    params_path = os.path.join(checkpoint.directory, "params.json")
    if not checkpoint.config:
        raise ArchitectureError(
            "is missing: it holds the number of heads", file=params_path, fix="put it beside the consolidated files"
        )
    params = checkpoint.config.get("model")
    params = params if isinstance(params, dict) else checkpoint.config
    joined = _joined_parts(checkpoint, params.get("dim"))
    return _under_meta_names(checkpoint, joined, params, params_path, n_ctx, meta_params.KEYS)


def _from_ggjt(checkpoint: Checkpoint, given: Given) -> CanonicalModel:
    """The files of llama.cpp before GGUF: Meta's names, row order and parts."""
    from fastconv.architecture import ggjt_header

    joined = _joined_parts(checkpoint, checkpoint.metadata["n_embd"])
    params = ggjt_header.as_params(checkpoint.metadata, joined, checkpoint.path, given)
    model = _under_meta_names(checkpoint, joined, params, checkpoint.path, given.n_ctx, ggjt_header.KEYS)
    title, _ = os.path.splitext(os.path.basename(checkpoint.path))
    return replace(model, notes=ggjt_header.assumption_notes(model.hparams, given), title=title)


def _under_meta_names(
    checkpoint: Checkpoint,
    joined: Mapping[str, LazyTensor],
    params: dict[str, Any],
    params_path: str,
    n_ctx: int | None,
    keys: Mapping[str, str],
) -> CanonicalModel:
    config = meta_params.as_hf_config(params, lambda name: joined[name].shape, n_ctx, params_path)
    hparams = _located(LLAMA, config, params_path, len(joined), keys)
    return _renamed(checkpoint, LLAMA, hparams, joined, meta_names(LLAMA, hparams), config)


def _renamed(
    checkpoint: Checkpoint,
    spec: ArchitectureSpec,
    hparams: Hyperparameters,
    stored: Mapping[str, LazyTensor],
    names: Mapping[str, str | None],
    config: dict[str, Any],
) -> CanonicalModel:
    """A model by other names and in Meta's row order. names: canonical -> stored."""
    rules = {name: rule for rule, _, name in instances(spec, hparams)}
    canonical = {other: name for name, other in names.items()}
    tensors: dict[str, LazyTensor] = {}
    source_names: dict[str, str] = {}
    for other, tensor in stored.items():
        name = canonical.get(other)
        if name is None:
            raise _surplus(checkpoint, checkpoint.path, other, hparams)
        tensors[name] = _in_halves(tensor, rules[name], hparams).renamed(name)
        source_names[name] = other
    return _checked(checkpoint, spec, hparams, tensors, config, source_names)


def _in_halves(tensor: LazyTensor, rule: TensorRule, hparams: Hyperparameters) -> LazyTensor:
    """Rows of rotating heads from Meta's order, which GGML and GGUF share, to Hugging Face's."""
    if rule.rope_heads is None or tensor.shape != rule_shape(rule, hparams):
        return tensor
    return tensor.with_rows(halves_from_interleaved(getattr(hparams, rule.rope_heads), hparams.head_dim))


def _proven(checkpoint: Checkpoint, model: NamedModel) -> CanonicalModel:
    """A model that bears canonical names already."""
    path = os.path.join(checkpoint.directory, "config.json")
    spec = spec_for(model.config, path)
    hparams = _located(spec, model.config, path, len(model.tensors))
    return _checked(checkpoint, spec, hparams, model.tensors, model.config, model.source_names)


def _located(
    spec: ArchitectureSpec, config: dict[str, Any], path: str, n_tensors: int, keys: Mapping[str, str] | None = None
) -> Hyperparameters:
    """keys: of config.json -> as the source calls them, None: the same."""

    def in_source(text: str) -> str:
        names = "|".join(map(re.escape, sorted(keys or (), key=len, reverse=True)))
        return re.sub(rf"\b({names})\b", lambda found: (keys or {})[found[0]], text) if names else text

    try:
        hparams = spec.hyperparameters(config)
    except ArchitectureError as error:
        expected = None if error.expected is None else in_source(str(error.expected))
        raise ArchitectureError(
            in_source(error.what), file=path, found=error.found, expected=expected, fix=error.fix
        ) from None
    if hparams.n_layer > n_tensors:  # before names are made for all of them
        raise ArchitectureError(
            "states more layers than the model has tensors", file=path, found=hparams.n_layer, expected=n_tensors
        )
    return hparams


def _wanted(tensors: Mapping[str, LazyTensor], ignored: Sequence[str], path: str) -> dict[str, LazyTensor]:
    pattern = re.compile("|".join(f"(?:{pattern})" for pattern in ignored))
    wanted = {name: tensor for name, tensor in tensors.items() if not pattern.fullmatch(name)}
    if not wanted:
        raise CheckpointError("holds no tensors", file=path)
    return wanted


def _joined_parts(checkpoint: Checkpoint, n_embd: object) -> dict[str, LazyTensor]:
    """The tensors of a Meta or GGML model under Meta's names, its model-parallel parts joined."""
    path = checkpoint.path
    parts = [_wanted(part, LLAMA.ignored, path) for part in checkpoint.parts or (checkpoint.tensors,)]
    first = parts[0]
    for index, part in enumerate(parts):
        odd = sorted(first.keys() ^ part.keys())
        if odd:
            raise ArchitectureError(
                f"stands in some parts only (part {index} disagrees with part 0)", file=path, tensor=odd[0]
            )
    joined = _joined(parts, n_embd, path) if len(parts) > 1 else first
    for name in (_META_EMBEDDING, "layers.0.feed_forward.w1.weight"):
        if name not in joined or len(joined[name].shape) != 2:
            raise ArchitectureError("is missing or not a matrix", file=path, tensor=name)
    return joined


def _joined(parts: Sequence[Mapping[str, LazyTensor]], n_embd: object, path: str) -> dict[str, LazyTensor]:
    first = parts[0]
    axes = {rule.meta: rule.join for rule in LLAMA.rules}
    # Llama 3 cuts the embedding by rows, Llama 1 and 2 by columns.
    if len(first[_META_EMBEDDING].shape) == 2 and first[_META_EMBEDDING].shape[1] == n_embd:
        axes[_META_EMBEDDING] = 0
    joined: dict[str, LazyTensor] = {}
    for name, tensor in first.items():
        axis = axes.get(re.sub(r"\.\d+\.", ".{layer}.", name))
        if axis is None:
            joined[name] = tensor
            continue
        try:
            joined[name] = LazyTensor.joined(name, [part[name] for part in parts], axis)
        except ValueError as error:
            raise ArchitectureError(f"the parts do not fit together ({error})", file=path, tensor=name) from None
    return joined


def _checked(
    checkpoint: Checkpoint,
    spec: ArchitectureSpec,
    hparams: Hyperparameters,
    tensors: dict[str, LazyTensor],
    config: dict[str, Any],
    source_names: dict[str, str],
) -> CanonicalModel:
    """The model, once every tensor the table expects is there in its shape, and no other."""
    expected = {name: rule for rule, _, name in instances(spec, hparams)}
    for name, rule in expected.items():
        tensor = tensors.get(name)
        if tensor is None:
            if rule.tied_to is not None and hparams.tied_embeddings:
                continue
            fix = "download or copy the checkpoint again"
            if rule.tied_to is not None and _settings(checkpoint) == _CONFIG:
                fix = "if the model shares its embedding, config.json must say tie_word_embeddings: true"
            stored = _name_in_source(checkpoint, spec, rule, name)
            raise ArchitectureError("is missing", file=checkpoint.path, tensor=stored, fix=fix)
        shape = rule_shape(rule, hparams)
        stored = source_names[name]
        if tensor.shape != shape:
            settings = _settings(checkpoint)
            # Only config.json states the vocabulary's size.
            what = f"the embedding and {settings}" if "n_vocab" in rule.shape and settings != _CONFIG else settings
            raise ArchitectureError(
                f"has another shape than {what} would have it",
                file=_file(tensor, checkpoint),
                tensor=stored,
                found=list(tensor.shape),
                expected=list(shape),
                fix=f"download or copy the checkpoint again{', config.json too' if settings == _CONFIG else ''}",
            )
        info = TYPES.get(tensor.dtype)
        if info is None or not info.decodes or (len(shape) == 1 and info.block_size > 1):
            raise ArchitectureError(
                "has a type that cannot be converted",
                file=_file(tensor, checkpoint),
                tensor=stored,
                found=tensor.dtype,
                expected=", ".join(name for name, info in TYPES.items() if info.decodes and info.block_size == 1),
            )
    for name in tensors:
        if name not in expected:
            raise _surplus(checkpoint, _file(tensors[name], checkpoint), source_names[name], hparams)
    return CanonicalModel(
        tensors=tensors,
        directory=checkpoint.directory,
        config=config,
        source_names=source_names,
        tied={name: rule.tied_to for name, rule in expected.items() if rule.tied_to and name not in tensors},
        per_token=tuple(name for name, rule in expected.items() if rule.shape[0] == "n_vocab"),
        spec=spec,
        hparams=hparams,
    )


def _file(tensor: LazyTensor, checkpoint: Checkpoint) -> str:
    return tensor.files[0] if tensor.files else checkpoint.path


def _settings(checkpoint: Checkpoint) -> str:
    """What states the sizes of the model."""
    if checkpoint.is_self_contained:
        return "the header"
    return "params.json" if holds_meta_names(checkpoint) else _CONFIG


def _name_in_source(checkpoint: Checkpoint, spec: ArchitectureSpec, rule: TensorRule, name: str) -> str:
    """What the source would call a tensor that it has not got."""
    if checkpoint.format == "gguf":
        return gguf_keys.gguf_names(spec, [name])[name] or name
    if checkpoint.format == "ggjt" or holds_meta_names(checkpoint):
        layer = re.search(r"\.(\d+)\.", name)
        return rule.meta if layer is None else rule.meta.format(layer=layer[1])
    return name


def _surplus(checkpoint: Checkpoint, path: str, name: str, hparams: Hyperparameters) -> ArchitectureError:
    settings = _settings(checkpoint)
    fix = f"the model is not what {settings} says"
    if name.endswith(".bias") and settings == _CONFIG:
        fix = "if the model has biases, config.json must say attention_bias or mlp_bias: true"
    elif name.endswith((".weight_scale", ".weight_scale_inv", ".qweight", ".scales", ".absmax")):
        fix = "quantized checkpoints are not a source: start from the unquantized model"
    elif ".lora_" in name:
        fix = _ADAPTER
    match = re.search(r"\.(\d+)\.", name)
    if match and int(match[1]) >= hparams.n_layer:
        fix = f"{settings} says {hparams.n_layer} layers"
    return ArchitectureError("is not a tensor of this architecture", file=path, tensor=name, fix=fix)
