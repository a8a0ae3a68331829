"""A plain converter in NumPy, tensor by tensor: the answer that fastconv's output is checked against, and a contender.

usage: numpy_path.py MODEL OUTFILE TYPE [--lora ADAPTER] [--ordered] [--quantizer oracle|gguf]. Bfloat16 safetensors
in, GGUF out; the metadata is left out, for only tensors are compared. The quantizers are those of the tests, or
gguf.quants; the product of an adapter is BLAS's, or summed in the order that fastconv promises.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))


def read_safetensors(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Name and float32 array of every tensor; F32 and BF16 only."""
    data = np.memmap(path, np.uint8, "r")
    n = int(data[:8].view("<u8")[0])
    for name, entry in json.loads(bytes(data[8 : 8 + n])).items():
        if name == "__metadata__":
            continue
        start, stop = (8 + n + offset for offset in entry["data_offsets"])
        if entry["dtype"] == "BF16":
            x = (data[start:stop].view("<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            x = data[start:stop].view("<f4")
        yield name, x.reshape(entry["shape"])


def read_adapter(directory: Path) -> tuple[dict[str, np.ndarray], np.float32]:
    """Adapter tensors by name and the factor alpha / r."""
    config = json.loads((directory / "adapter_config.json").read_text())
    tensors = dict(read_safetensors(directory / "adapter_model.safetensors"))
    return tensors, np.float32(config["lora_alpha"] / config["r"])


def interleave_heads(x: np.ndarray, n_heads: int) -> np.ndarray:
    """Rows of q_proj or k_proj in the order of Meta and GGUF."""
    return x.reshape(n_heads, 2, len(x) // n_heads // 2, -1).swapaxes(1, 2).reshape(x.shape)


def quantize(x: np.ndarray, type_name: str, quantizer: str) -> np.ndarray:
    """float32 rows -> rows of uint8."""
    if quantizer == "gguf" and type_name != "q6_k":  # gguf.quants cannot make q6_k
        return gguf.quantize(x, gguf.GGMLQuantizationType[type_name.upper()])
    from tests.oracle.blocks import encode

    return encode(x, type_name)


def merge(x: np.ndarray, b: np.ndarray, a: np.ndarray, scale: np.float32, *, ordered: bool) -> np.ndarray:
    """x + scale * b @ a, float32."""
    if ordered:
        from tests.oracle.merge import lora_add

        return lora_add(x, b, a, scale)
    return x + scale * (b @ a)


def type_of(name: str, x: np.ndarray, outtype: str) -> str:
    """llama.cpp's recipe: vectors stay float32; the output matrix is finer than the legacy 4- and 5-bit types."""
    if x.ndim == 1:
        return "f32"
    if name == "output.weight" and outtype in ("q4_0", "q4_1", "q5_0", "q5_1"):
        return "q6_k"
    return outtype


def main() -> None:
    """Convert as the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("outfile", type=Path)
    parser.add_argument("type")
    parser.add_argument("--lora", type=Path)
    parser.add_argument("--ordered", action="store_true")
    parser.add_argument("--quantizer", choices=["oracle", "gguf"], default="oracle")
    arguments = parser.parse_args()

    config = json.loads((arguments.model / "config.json").read_text())
    n_heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    lora, scale = read_adapter(arguments.lora) if arguments.lora else ({}, np.float32(0))
    writer = gguf.GGUFWriter(arguments.outfile, "llama")
    for name, x in read_safetensors(arguments.model / "model.safetensors"):
        module = name.removesuffix(".weight")
        if (a := lora.get(f"base_model.model.{module}.lora_A.weight")) is not None:
            x = merge(x, lora[f"base_model.model.{module}.lora_B.weight"], a, scale, ordered=arguments.ordered)
        projection = module.rpartition(".")[2]
        if projection in n_heads:
            x = interleave_heads(x, n_heads[projection])
        target = names.get_name(module) + ".weight"
        type_name = type_of(target, x, arguments.type)
        raw_dtype = gguf.GGMLQuantizationType[type_name.upper()]
        writer.add_tensor(target, quantize(x, type_name, arguments.quantizer), raw_dtype=raw_dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
