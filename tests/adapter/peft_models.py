"""Tiny LLaMA models in transformers and PEFT, in float64 so that a merge leaves no rounding to hide behind."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastconv.architecture.canonical import canonical_model
from fastconv.architecture.spec import CanonicalModel
from fastconv.checkpoint.open import open_checkpoint


@dataclass
class Llama:
    """torch: the model in transformers. canonical: the same, saved and opened by fastconv."""

    torch: Any
    canonical: CanonicalModel
    directory: Path


def make_llama(directory: Path, keywords: dict[str, Any]) -> Llama:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    sizes = {
        "vocab_size": 40,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
    }
    model = LlamaForCausalLM(LlamaConfig(**(sizes | keywords))).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(directory)
    return Llama(model, canonical_model(open_checkpoint(directory)), directory)


def trained_adapter(
    model: Any,
    directory: Path,
    *,
    seed: int = 0,
    noise: float = 0.3,
    save_embedding_layers: bool | str = "auto",
    **config: Any,
) -> Path:
    """A PEFT adapter, saved by PEFT, with noise added to every trainable parameter: neither A nor B is zero."""
    import torch
    from peft import LoraConfig, get_peft_model

    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft_model = get_peft_model(copy.deepcopy(model), LoraConfig(**(settings | config)))
        torch.manual_seed(seed + 100)
        with torch.no_grad():
            for parameter in peft_model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter), alpha=noise)
        peft_model.save_pretrained(directory, save_embedding_layers=save_embedding_layers)
    return directory


def untied(model: Any) -> Any:
    """The same weights with an lm_head of its own: PEFT bends both of a tied pair when it merges into one."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**(model.config.to_dict() | {"tie_word_embeddings": False}))
    clone = LlamaForCausalLM(config).double()
    clone.load_state_dict(model.state_dict())
    return clone


def peft_merged(model: Any, *adapters: Path, factors: Sequence[float] = ()) -> dict[str, Any]:
    """The state dict after PEFT has loaded, scaled and merged the adapters one after the other, as float64 arrays."""
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        merged = copy.deepcopy(model)
        names = [f"adapter{index}" for index in range(len(adapters))]
        peft_model = PeftModel.from_pretrained(merged, adapters[0], adapter_name=names[0])
        for name, adapter in zip(names[1:], adapters[1:], strict=True):
            peft_model.load_adapter(adapter, name)
        for module in peft_model.modules():
            for name, factor in zip(names, factors, strict=False):
                if isinstance(module, LoraLayer) and name in module.scaling:
                    module.scaling[name] *= factor
        merged = peft_model.merge_and_unload(adapter_names=names)
    return {name: tensor.detach().numpy() for name, tensor in merged.state_dict().items()}


def edit_config(adapter: Path, **fields: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def drop(adapter: Path, name: str) -> None:
    """Takes a tensor out of a safetensors adapter."""
    from safetensors.torch import load_file, save_file

    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    del tensors[name]
    save_file(tensors, file)
