"""Reads the files that llama.cpp used before GGUF: GGML, GGMF and GGJT v1 to v3, in one part or several.

Source: llama.cpp's llama-util.h and llama.cpp of March to August 2023; the versions differ as its pull requests 252
(GGMF), 613 (GGJT), 1405 (v2) and 1508 (v3) say.
"""

from __future__ import annotations

import os
import struct
from typing import Any

from fastconv.checkpoint.cursor import Cursor
from fastconv.checkpoint.foreign_types import block_of, checked_bytes, ggml_type_name
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.checkpoint.limits import check_tensor_count
from fastconv.checkpoint.marks import GGML_FAMILIES
from fastconv.checkpoint.storage import FileStorage
from fastconv.errors import CheckpointError
from fastconv.paths import exists

_VERSIONS = {"ggml": (0,), "ggmf": (1,), "ggjt": (1, 2, 3)}
HPARAMS = ("n_vocab", "n_embd", "n_mult", "n_head", "n_layer", "n_rot", "ftype")
ALIGNMENT = 32  # of tensor data in GGJT; the older two have none
MAX_TOKENS = 1 << 18  # eight times LLaMA's
MAX_TOKEN_BYTES = 1 << 16
MAX_VOCABULARY_BYTES = 1 << 24
MAX_NAME_BYTES = 256
_EMBEDDING = "tok_embeddings.weight"

# Type names by type id. GGJT v3 has the ids and blocks of today, without those that came later.
_TYPES_V3 = (0, 1, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14)
_TYPES_V2 = {0: "f32", 1: "f16", 2: "q4_0_v2", 3: "q4_1_v2", 6: "q5_0", 7: "q5_1", 8: "q8_0_v1"}
_TYPES_V1 = {
    0: "f32",
    1: "f16",
    2: "q4_0_v1",
    3: "q4_1_v1",
    4: "q4_2",
    5: "q4_3",
    6: "q5_0_v1",
    7: "q5_1_v1",
    8: "q8_0_v1",
}
_Parts = tuple[dict[str, LazyTensor], ...]


def read_ggjt(storage: FileStorage) -> tuple[dict[str, LazyTensor], dict[str, Any], _Parts]:
    """Tensors in file order, the header, and the parts where the model is split over X, X.1, X.2 ...

    The header has "container" ("ggml", "ggmf" or "ggjt"), "version" (0 for ggml), the seven HPARAMS, "tokens" (bytes)
    and "scores" (absent from ggml). Raises CheckpointError.
    """
    tensors, metadata = _read_part(storage)
    if not tensors:
        return tensors, metadata, ()
    if _EMBEDDING not in tensors:
        raise CheckpointError("is no LLaMA model", file=storage.path, expected=f"a tensor {_EMBEDDING}")
    n_embd, width = metadata["n_embd"], tensors[_EMBEDDING].shape[-1]
    if metadata["container"] == "ggjt" or width in (0, n_embd):
        return tensors, metadata, ()
    if n_embd % width:
        raise CheckpointError(
            "width does not divide n_embd", file=storage.path, tensor=_EMBEDDING, found=width, expected=n_embd
        )
    parts = [tensors]
    for number in range(1, n_embd // width):
        path = f"{storage.path}.{number}"
        if not exists(path):
            raise CheckpointError(
                f"part {os.path.basename(path)} is missing",
                file=storage.path,
                found=f"{number} parts",
                expected=n_embd // width,
            )
        part, header = _read_part(FileStorage(path))
        if header != metadata:
            raise CheckpointError("header differs from the first part's", file=path)
        if part.keys() != tensors.keys():
            name = min(part.keys() ^ tensors.keys())
            raise CheckpointError("is not in every part", file=path, tensor=name)
        parts.append(part)
    return tensors, metadata, tuple(parts)


def _read_part(storage: FileStorage) -> tuple[dict[str, LazyTensor], dict[str, Any]]:
    cursor = Cursor(storage, limit=MAX_VOCABULARY_BYTES)
    container, version = _container(cursor)
    values = cursor.unpack(struct.Struct("<7I"))
    metadata: dict[str, Any] = {"container": container, "version": version, **dict(zip(HPARAMS, values, strict=True))}
    tokens, scores = _vocabulary(cursor, metadata["n_vocab"], container != "ggml")
    metadata["tokens"] = tokens
    if container != "ggml":
        metadata["scores"] = scores
    # From here on records are far apart: small reads.
    records = Cursor(storage, chunk=1 << 9)
    records.position = cursor.position
    tensors: dict[str, LazyTensor] = {}
    while records.remaining:
        tensor = _tensor(records, container, version, metadata["ftype"])
        if tensor.name in tensors:
            raise CheckpointError("appears twice", file=storage.path, tensor=tensor.name)
        tensors[tensor.name] = tensor
        check_tensor_count(storage.path, len(tensors))
    if container == "ggml":
        tensors = _mark_planar(storage, tensors)
    return tensors, metadata


def _container(cursor: Cursor) -> tuple[str, int]:
    path = cursor.storage.path
    magic = cursor.take(4)
    if magic == b"algg":
        raise CheckpointError("is a LoRA adapter (ggla), no model", file=path)
    if magic == b"nsgg":
        raise CheckpointError("is a saved session of llama.cpp, no model", file=path)
    container = GGML_FAMILIES.get(magic)
    if container is None:
        raise CheckpointError("is no GGML file", file=path, found=repr(magic))
    version = 0 if container == "ggml" else cursor.u32()
    if version not in _VERSIONS[container]:
        raise CheckpointError(
            f"{container} version is unknown",
            file=path,
            found=version,
            expected=" or ".join(str(v) for v in _VERSIONS[container]),
        )
    return container, version


def _vocabulary(cursor: Cursor, n_vocab: int, scored: bool) -> tuple[list[bytes], list[float]]:
    cursor.check_count(n_vocab, 8 if scored else 4, "tokens")
    if n_vocab > MAX_TOKENS:
        raise CheckpointError(
            "holds too many tokens", file=cursor.storage.path, found=n_vocab, expected=f"at most {MAX_TOKENS}"
        )
    score_of = struct.Struct("<f")
    tokens: list[bytes] = []
    scores: list[float] = []
    for i in range(n_vocab):
        # GPT4All's files state one token more than they hold: where it would be, the first tensor record begins.
        if i == n_vocab - 1 and cursor.remaining >= 41:
            position = cursor.position
            if cursor.take(41)[20:] == _EMBEDDING.encode():
                cursor.position = position
                break
            cursor.position = position
        length = cursor.u32()
        if length > MAX_TOKEN_BYTES:
            raise CheckpointError(
                f"token {i} is too long",
                file=cursor.storage.path,
                found=f"{length} bytes",
                expected=f"at most {MAX_TOKEN_BYTES}",
            )
        tokens.append(cursor.take(length))
        if scored:
            scores += cursor.unpack(score_of)
    return tokens, scores


def _tensor(cursor: Cursor, container: str, version: int, ftype: int) -> LazyTensor:
    storage = cursor.storage
    at = cursor.position
    n_dims, name_length, type_id = cursor.unpack(struct.Struct("<3I"))
    if n_dims not in (1, 2) or not 0 < name_length <= MAX_NAME_BYTES:
        raise CheckpointError(
            f"no tensor record at offset {at}",
            file=storage.path,
            found=f"{n_dims} dimensions, a name of {name_length} bytes",
            expected="1 or 2 dimensions",
            fix="download or copy it again",
        )
    shape = cursor.unpack(struct.Struct(f"<{n_dims}I"))[::-1]
    try:
        name = cursor.take(name_length).decode("utf-8")
    except UnicodeDecodeError:
        raise CheckpointError(f"no tensor record at offset {at} (its name is not UTF-8)", file=storage.path) from None
    type_name = _type_name(version, ftype, type_id)
    block = block_of(type_name) if type_name else None
    if type_name is None or block is None:
        raise CheckpointError(
            f"type is unknown to {container} version {version}", file=storage.path, tensor=name, found=type_id
        )
    size = checked_bytes(shape, type_name, block, file=storage.path, tensor=name)
    begin = cursor.position
    if container == "ggjt":
        begin = -(-begin // ALIGNMENT) * ALIGNMENT
    storage.check_tensor(name, begin + size)
    cursor.position = begin + size
    return LazyTensor.stored(name, type_name, shape, storage, begin)


def _type_name(version: int, ftype: int, type_id: int) -> str | None:
    if version == 3:
        return ggml_type_name(type_id) if type_id in _TYPES_V3 else None
    if version == 2:
        return _TYPES_V2.get(type_id)
    if type_id == 6 and ftype == 7:
        return "q8_0_v1"  # one day's files; source: llama.cpp pull requests 1179 and 1187
    return _TYPES_V1.get(type_id)


def _mark_planar(storage: FileStorage, tensors: dict[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Renames the types of the earliest GGML files, whose rows hold all scales before all quants.

    Nothing in the header tells; but only where scale and quants alternate is there a plausible scale in every block.
    """
    planar: dict[str, str] = {}
    for type_name in ("q4_0_v1", "q4_1_v1"):
        first = next((t for t in tensors.values() if t.dtype == type_name and t.n_elements >= 32 * 8), None)
        if first is None:
            continue
        block = 20 if type_name == "q4_0_v1" else 24
        n_blocks = min(256, first.n_elements // 32)  # past the scales of the longest rows
        raw = storage.read(first.pieces[0].offset, n_blocks * block)
        scales = [struct.unpack_from("<f", raw, i * block)[0] for i in range(n_blocks)]
        if not all(scale == 0 or 1e-12 < abs(scale) < 1e3 for scale in scales):
            planar[type_name] = type_name.replace("_v1", "_planar")
    return {
        name: LazyTensor.stored(name, planar[t.dtype], t.shape, storage, t.pieces[0].offset) if t.dtype in planar else t
        for name, t in tensors.items()
    }
