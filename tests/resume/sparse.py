"""Checkpoints of any size in files without blocks: all weights are zero, and nothing but headers is on the disk."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from tests import models


def write_sparse_file(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Safetensors, bf16."""
    header: dict[str, Any] = {}
    at = 0
    for name, shape in shapes.items():
        end = at + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)


def write_sparse(folder: Path, shape: models.LlamaShape, shards: int = 1) -> int:
    """A Hugging Face folder. Returns the bytes of its tensors."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(shape.config()))
    (folder / "tokenizer.model").write_bytes(models.spm_model(shape.n_vocab))
    shapes = shape.tensor_shapes()
    names = list(shapes)
    weight_map = {}
    for index in range(shards):
        file = f"model-{index + 1:05d}-of-{shards:05d}.safetensors"
        part = names[index * len(names) // shards : (index + 1) * len(names) // shards]
        write_sparse_file(folder / file, {name: shapes[name] for name in part})
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return sum(2 * math.prod(dims) for dims in shapes.values())
