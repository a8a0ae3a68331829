"""The rules for what a GGUF file says: types of keys, numbers, the vocabulary. Knows no data of tensors, nor its place.

Source: ggml, docs/gguf.md, and llama.cpp b11434: llama-model-loader.cpp (types of keys, which must be exact),
llama-vocab.cpp (arrays of the vocabulary).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from fastconv.checkpoint.gguf_array import GgufArray, value_of
from fastconv.finding import Finding

_TYPE_NAMES = {
    0: "uint8",
    1: "int8",
    2: "uint16",
    3: "int16",
    4: "uint32",
    5: "int32",
    6: "float32",
    7: "bool",
    8: "string",
    9: "array",
    10: "uint64",
    11: "int64",
    12: "float64",
}
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
# Keys, as regular expressions -> the type of the value; of an array, that of its elements.
_KEYS: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = (
    (r"general\.(architecture|name|type|basename|finetune|size_label|license)", (_STRING,), ()),
    (r"general\.(alignment|file_type|quantization_version)", (_U32,), ()),
    (r"[^.]+\.(block_count|context_length|embedding_length|vocab_size|expert_count|expert_used_count)", (_U32,), ()),
    (r"[^.]+\.(feed_forward_length|attention\.head_count(_kv)?)", (_U32, _ARRAY), (_U32, _I32)),
    (r"[^.]+\.attention\.(key|value)_length", (_U32,), ()),
    (r"[^.]+\.rope\.dimension_count", (_U32,), ()),
    (r"[^.]+\.attention\.layer_norm(_rms)?_epsilon", (_F32,), ()),
    (r"[^.]+\.rope\.(freq_base|scaling\.factor|scaling\.attn_factor)", (_F32,), ()),
    (r"[^.]+\.rope\.scaling\.type", (_STRING,), ()),
    (r"tokenizer\.ggml\.(model|pre)", (_STRING,), ()),
    (r"tokenizer\.ggml\.(tokens|merges)", (_ARRAY,), (_STRING,)),
    (r"tokenizer\.ggml\.scores", (_ARRAY,), (_F32,)),
    (r"tokenizer\.ggml\.token_type", (_ARRAY,), (_I32, _U32)),
    (r"tokenizer\.ggml\.\w+_token_id", (_U32,), ()),
    (r"tokenizer\.ggml\.(add_\w+|remove_extra_whitespaces)", (_BOOL,), ()),
)
_MUST_BE_POSITIVE = re.compile(r"[^.]+\.(attention\.layer_norm(_rms)?_epsilon|rope\.(freq_base|scaling\.factor))")
_MUST_BE_NON_ZERO = re.compile(r"[^.]+\.(block_count|context_length|embedding_length)")
_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"
_TOKEN_TYPES = frozenset(range(7))  # undefined to byte


def broken_rules(encoded: Mapping[str, bytes | memoryview], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Finding]:
    """What is wrong with the keys of a file, alone and beside its tensors; the reader has refused what it can.

    encoded: the key-values as stored: type, then value. shapes: of all tensors, output dimension first.
    """
    values = {key: value_of(memoryview(raw)) for key, raw in encoded.items()}
    yield from _key_types(encoded)
    yield from _numbers(values, shapes)
    yield from _vocabulary(values, shapes)


def _key_types(encoded: Mapping[str, bytes | memoryview]) -> Iterator[Finding]:
    if "general.architecture" not in encoded:
        yield Finding("key general.architecture is missing")
    for key, raw in encoded.items():
        row = next((row for row in _KEYS if re.fullmatch(row[0], key)), None)
        if row is None:
            continue
        _, types, elements = row
        kind = int.from_bytes(raw[:4], "little")
        if kind not in types:
            yield Finding(f"key {key} is of the wrong type", None, _name(kind), " or ".join(map(_name, types)))
        elif kind == _ARRAY and int.from_bytes(raw[4:8], "little") not in elements:
            found = f"an array of {_name(int.from_bytes(raw[4:8], 'little'))}"
            yield Finding(f"key {key} is of the wrong type", None, found, " or ".join(map(_name, elements)))


def _name(kind: int) -> str:
    return _TYPE_NAMES.get(kind, str(kind))


def _numbers(values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Finding]:
    for key, value in values.items():
        if _MUST_BE_POSITIVE.fullmatch(key) and isinstance(value, float) and not (0 < value < math.inf):
            yield Finding(f"key {key} is no positive number", found=f"{value:g}")
        if _MUST_BE_NON_ZERO.fullmatch(key) and value == 0:
            yield Finding(f"key {key} is zero")
    architecture = values.get("general.architecture")
    layers = {int(match[1]) for name in shapes if (match := re.match(r"blk\.(\d{1,9})\.", name))}
    n_layer = values.get(f"{architecture}.block_count")
    # Both numbers are the file's, and may be billions.
    if layers and isinstance(n_layer, int) and (len(layers), max(layers)) != (n_layer, n_layer - 1):
        missing = next(n for n in range(len(layers) + 1) if n not in layers)
        what = f"blk.{missing} is missing" if missing < n_layer else f"blk.{max(layers)} is beyond block_count"
        yield Finding(f"its layers are not those of block_count: {what}", None, f"{len(layers)} layers", str(n_layer))
    embedding, width = shapes.get(_EMBEDDING), values.get(f"{architecture}.embedding_length")
    if embedding and isinstance(width, int) and embedding[-1] != width:
        yield Finding("has another width than embedding_length", _EMBEDDING, str(embedding[-1]), str(width))


def _vocabulary(values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Finding]:
    tokens = values.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, GgufArray):
        return
    n_vocab = len(tokens)
    for key in ("scores", "token_type"):
        other = values.get(f"tokenizer.ggml.{key}")
        if isinstance(other, GgufArray) and len(other) != n_vocab:
            yield Finding(f"tokenizer.ggml.{key} is not as long as the vocabulary", None, str(len(other)), str(n_vocab))
    for name in (_EMBEDDING, _OUTPUT):
        shape = shapes.get(name)
        if shape and shape[0] != n_vocab:
            yield Finding("has not one row for each token", name, f"{shape[0]} rows", f"{n_vocab} tokens")
    stated = values.get(f"{values.get('general.architecture')}.vocab_size")
    if isinstance(stated, int) and stated != n_vocab:
        yield Finding("vocab_size is not the number of tokens", None, str(stated), str(n_vocab))
    for key, value in values.items():
        if re.fullmatch(r"tokenizer\.ggml\.\w+_token_id", key) and isinstance(value, int) and value >= n_vocab:
            yield Finding(f"{key} is outside the vocabulary", None, str(value), f"less than {n_vocab}")
    scores, kinds = values.get("tokenizer.ggml.scores"), values.get("tokenizer.ggml.token_type")
    # Whole arrays first: there are hundreds of thousands of tokens. Elements of other types were told above.
    if _holds(scores, float) and not all(map(math.isfinite, scores.tolist())):
        bad = next(i for i, score in enumerate(scores) if not math.isfinite(score))
        yield Finding(f"the score of token {bad} is not finite", found=str(scores[bad]))
    if _holds(kinds, int) and not set(kinds.tolist()).issubset(_TOKEN_TYPES):
        bad = next(i for i, kind in enumerate(kinds) if kind not in _TOKEN_TYPES)
        yield Finding(f"the type of token {bad} is unknown", found=str(kinds[bad]), expected="0 to 6")
    merges = values.get("tokenizer.ggml.merges")
    if values.get("tokenizer.ggml.model") == "gpt2" and not merges:
        yield Finding("a vocabulary of merges has none: key tokenizer.ggml.merges is missing")


def _holds(found: Any, kind: type) -> TypeGuard[GgufArray]:
    return isinstance(found, GgufArray) and len(found) > 0 and isinstance(found[0], kind)
