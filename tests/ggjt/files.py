"""GGJT files by hand: a strict reader, a NumPy writer and the model of the golden files. Knows nothing of fastconv."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from tests.ggjt import blocks
from tests.models import LlamaShape, bf16_rounded

FTYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q6_k": 18}
TYPE_CODES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "q6_k": 14}
# Bytes of one block of 32 elements (q6_k: 256), by type code and version.
BLOCK_BYTES = {
    **dict.fromkeys([(0, 1), (0, 2), (0, 3)], 128),
    **dict.fromkeys([(1, 1), (1, 2), (1, 3)], 64),
    **dict.fromkeys([(2, 1), (2, 2), (3, 3)], 20),
    **dict.fromkeys([(3, 1), (3, 2), (7, 1), (7, 2), (7, 3)], 24),
    **dict.fromkeys([(6, 1), (6, 2), (6, 3)], 22),
    **dict.fromkeys([(8, 1), (8, 2)], 36),
    (2, 3): 18,
    (8, 3): 34,
}
Q6_K = 14


@dataclass(frozen=True)
class Tensor:
    """dims: as stored, the contiguous one first. offset: of the data, in bytes."""

    dims: tuple[int, ...]
    code: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class GgjtFile:
    """header: the seven fields by name. tokens: (text, score)."""

    version: int
    header: dict[str, int]
    tokens: list[tuple[bytes, float]]
    tensors: dict[str, Tensor]


def read(path: Path) -> GgjtFile:
    """Reads to the last byte; asserts alignment, zero padding and that nothing is left over."""
    data = path.read_bytes()
    magic, version, *fields = struct.unpack_from("<9I", data)
    assert magic == 0x67676A74
    header = dict(zip(("n_vocab", "n_embd", "n_mult", "n_head", "n_layer", "n_rot", "ftype"), fields, strict=True))
    at = 36
    tokens = []
    for _ in range(header["n_vocab"]):
        (length,) = struct.unpack_from("<I", data, at)
        (score,) = struct.unpack_from("<f", data, at + 4 + length)
        tokens.append((data[at + 4 : at + 4 + length], score))
        at += 8 + length
    tensors = {}
    while at < len(data):
        n_dims, name_length, code = struct.unpack_from("<3I", data, at)
        dims = struct.unpack_from(f"<{n_dims}I", data, at + 12)
        name_at = at + 12 + 4 * n_dims
        name = data[name_at : name_at + name_length].decode()
        at = name_at + name_length
        start = -(-at // 32) * 32
        assert data[at:start] == bytes(start - at)
        n_elements = int(np.prod(dims))
        size = n_elements // 256 * 210 if code == Q6_K else n_elements * BLOCK_BYTES[code, version] // 32
        assert start + size <= len(data)
        tensors[name] = Tensor(dims, code, start, data[start : start + size])
        at = start + size
    assert at == len(data)
    return GgjtFile(version, header, tokens, tensors)


def without_q6_k(path: Path) -> bytes:
    """The file with the blocks of q6_k tensors set to zero: their scale search got better after 2023."""
    data = bytearray(path.read_bytes())
    for tensor in read(path).tensors.values():
        if tensor.code == Q6_K:
            data[tensor.offset : tensor.offset + len(tensor.data)] = bytes(len(tensor.data))
    return bytes(data)


def interleave(x: np.ndarray, n_head: int) -> np.ndarray:
    """Hugging Face row order -> that of Meta: per head, row 2 i + j is row j hd/2 + i."""
    return x.reshape(n_head, 2, -1, x.shape[1]).swapaxes(1, 2).reshape(x.shape)


def in_file_order(tensors: Mapping[str, np.ndarray], shape: LlamaShape) -> dict[str, np.ndarray]:
    """Hugging Face tensors under the names, in the order and with the rows of a GGJT file."""
    ordered = {
        "tok_embeddings.weight": tensors["model.embed_tokens.weight"],
        "norm.weight": tensors["model.norm.weight"],
        "output.weight": tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"]),
    }
    for layer in range(shape.n_layer):
        source, target = f"model.layers.{layer}.", f"layers.{layer}."
        ordered |= {
            f"{target}attention.wq.weight": interleave(tensors[f"{source}self_attn.q_proj.weight"], shape.n_head),
            f"{target}attention.wk.weight": interleave(tensors[f"{source}self_attn.k_proj.weight"], shape.n_head_kv),
            f"{target}attention.wv.weight": tensors[f"{source}self_attn.v_proj.weight"],
            f"{target}attention.wo.weight": tensors[f"{source}self_attn.o_proj.weight"],
            f"{target}attention_norm.weight": tensors[f"{source}input_layernorm.weight"],
            f"{target}feed_forward.w1.weight": tensors[f"{source}mlp.gate_proj.weight"],
            f"{target}feed_forward.w2.weight": tensors[f"{source}mlp.down_proj.weight"],
            f"{target}feed_forward.w3.weight": tensors[f"{source}mlp.up_proj.weight"],
            f"{target}ffn_norm.weight": tensors[f"{source}post_attention_layernorm.weight"],
        }
    return ordered


def spm_tokens(model: bytes) -> list[tuple[bytes, float]]:
    """Text and score of every piece as convert.py of 2023 wrote them."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    tokens = []
    for i in range(processor.vocab_size()):
        piece = processor.id_to_piece(i)
        if processor.is_unknown(i):
            text = " \u2047 ".encode()
        elif processor.is_control(i):
            text = b""
        elif processor.is_byte(i):
            text = bytes([int(piece[3:5], 16)])
        else:
            text = piece.replace("\u2581", " ").encode()
        tokens.append((text, processor.get_score(i)))
    return tokens


def write(
    path: Path,
    shape: LlamaShape,
    tensors: Mapping[str, np.ndarray],
    tokens: list[tuple[bytes, float]],
    outtype: str,
    version: int,
    n_mult: int,
) -> None:
    """Every matrix in `outtype`; q6_k is not written here."""
    with path.open("wb") as file:
        fields = (shape.n_vocab, shape.n_embd, n_mult, shape.n_head, shape.n_layer, shape.head_size, FTYPES[outtype])
        file.write(b"tjgg" + struct.pack("<8I", version, *fields))
        for text, score in tokens:
            file.write(struct.pack("<I", len(text)) + text + struct.pack("<f", score))
        for name, x in in_file_order(tensors, shape).items():
            stored = outtype if x.ndim == 2 else "f32"
            file.write(struct.pack("<3I", x.ndim, len(name), TYPE_CODES[stored]))
            file.write(struct.pack(f"<{x.ndim}I", *x.shape[::-1]) + name.encode())
            file.write(bytes(-file.tell() % 32))
            file.write(blocks.encode(x, stored, version))


# The golden model: the real vocabulary, weights in closed form.
GOLDEN_SHAPE = LlamaShape(
    n_vocab=32000, n_embd=32, n_ff=96, n_layer=1, n_head=2, n_head_kv=2, extra={"rms_norm_eps": 1e-6}
)
GOLDEN_N_MULT = 96
# One whose output.weight the tool of v3 made q6_k.
WIDE_SHAPE = LlamaShape(
    n_vocab=32000, n_embd=256, n_ff=768, n_layer=1, n_head=4, n_head_kv=4, extra={"rms_norm_eps": 1e-6}
)


def real_spm_model() -> bytes:
    """A SentencePiece vocabulary of 32,000 pieces that a real model uses (Mistral 7B v0.1, Apache-2.0)."""
    return (files("mistral_common") / "data" / "tokenizer.model.v1").read_bytes()


def closed_form_tensors(shape: LlamaShape) -> dict[str, np.ndarray]:
    """bf16 weights that any NumPy reproduces: hashed positions; some blocks are zero, positive or constant."""
    tensors: dict[str, Any] = {}
    for index, (name, dims) in enumerate(shape.tensor_shapes().items()):
        position = np.arange(np.prod(dims), dtype=np.uint64)
        mixed = (position * 2654435761 + index * 40503) & 0xFFFFFFFF
        mixed = ((mixed ^ mixed >> 15) * 2246822519) & 0xFFFFFFFF
        mixed ^= mixed >> 13
        values = (mixed.astype(np.float64) / 2**31 - 1) * 0.0625
        if len(dims) == 1:
            values += 1
        else:
            block = values.reshape(-1, 32)
            block[3::97] = 0
            block[5::97] = np.abs(block[5::97])
            block[7::97] = block[7::97, :1]
        tensors[name] = bf16_rounded(values.astype(np.float32)).reshape(dims)
    return tensors
