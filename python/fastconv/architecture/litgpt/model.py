"""What a model under canonical names is to Lit-GPT: its class and the sizes of its parts."""

from __future__ import annotations

import os
import re

from fastconv.architecture.litgpt import namings
from fastconv.architecture.litgpt.classes import Config, ModelClass, class_of_config, positive
from fastconv.architecture.litgpt.mapping import Sizes, head_names
from fastconv.architecture.spec import NamedModel
from fastconv.errors import ArchitectureError
from fastconv.record import record


def model_class_and_sizes(model: NamedModel) -> tuple[ModelClass, Sizes]:
    """Raises ArchitectureError for a model that Lit-GPT has no class for, or whose tensors are not that class's."""
    path = os.path.join(model.directory, "config.json")
    entry = class_of_config(model.config, path)
    if entry is None:
        found = model.config.get("architectures") or model.config.get("model_type")
        raise ArchitectureError("Lit-GPT has no models of this architecture", file=path, found=found)
    heads = heads_of_config(entry, model.config)
    prefix = re.escape(entry.naming.layers)
    shapes = {name: tensor.shape for name, tensor in model.tensors.items()}
    layers = [int(match[1]) for name in shapes if (match := re.match(rf"{prefix}(\d+)\.", name))]
    experts = [int(match[1]) for name in shapes if (match := re.search(r"\.experts\.(\d+)\.", name))]
    embedding = shapes.get(head_names(entry.naming)[0], ())
    if len(embedding) != 2 or not layers:
        raise ArchitectureError("is not a model of its class", file=path, found=entry.hf_class)
    n_ff = 0
    n_ff_expert = 0
    for module in entry.naming.per_layer:
        if module.lit[0] in ("mlp.fc", "mlp.fc_1"):
            rows = shapes.get(f"{entry.naming.layers}0.{module.hf[0]}.weight", (0,))[0]
            n_ff = rows // len(module.lit)
        if module.lit[0] == "mlp.experts.{expert}.fc_1":
            n_ff_expert = shapes.get(f"{entry.naming.layers}0.{module.hf[0].format(expert=0)}.weight", (0,))[0]
    n_q, n_kv = heads.n_head * heads.head_size, heads.n_groups * heads.head_size
    norm = shapes.get(f"{entry.naming.layers}0.self_attn.q_norm.weight")
    whole = norm == (n_q,)  # over all heads, as in OLMo 2
    return entry, Sizes(
        n_layer=max(layers) + 1,
        n_vocab=embedding[0],
        n_embd=embedding[1],
        n_q=n_q,
        n_kv=n_kv,
        n_ff=n_ff,
        n_expert=max(experts, default=-1) + 1,
        n_ff_expert=n_ff_expert,
        head_size=heads.head_size,
        n_norm_q=n_q if whole else heads.head_size,
        n_norm_k=n_kv if whole else heads.head_size,
    )


@record(eq=True)
class Heads:
    """n_head, n_groups: of queries, and of keys. head_size: rows of one. file: where they are stated."""

    n_head: int
    n_groups: int
    head_size: int
    file: str


def heads_of_config(entry: ModelClass, config: Config) -> Heads:
    """From config.json. Raises ArchitectureError where a number is missing or unusable."""
    n_head = positive(config, "num_attention_heads", config.get("n_head"))
    groups: object = n_head
    for hf_key, lit_key, _ in entry.keys:
        if lit_key == "n_query_groups":
            groups = config.get(hf_key)
    if entry.naming is namings.FALCON:
        groups = 1 if config.get("multi_query", True) else n_head
    n_groups = n_head if groups is None else groups
    if type(n_groups) is not int or n_groups < 1 or n_head % n_groups:
        raise ArchitectureError("key/value heads are not usable", file="config.json", found=repr(n_groups)[:80])
    default = next((default for _, lit_key, default in entry.keys if lit_key == "head_size"), None)
    head_size = positive(config, "head_dim", default or positive(config, "hidden_size") // n_head)
    return Heads(n_head, n_groups, head_size, "config.json")
