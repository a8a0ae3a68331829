"""The seed corpus: small sound files of every format, by the tests' own builders, and the words that formats are made
of, for a fuzzer's dictionary."""

from __future__ import annotations

import functools
import json
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.formats.format_builders import (
    PickleBuilder,
    ZipBuilder,
    entry,
    ggjt_bytes,
    gguf_bytes,
    gguf_record,
    gguf_string,
    gguf_value,
    safetensors_bytes,
)
from tests.gguf.cases import byte_level, spm_as_json
from tests.imatrices import dat_bytes, random_entries, write_gguf
from tests.models import LlamaShape

VALUES = np.arange(32, dtype="<f4").tobytes()


def _u32(value: int) -> bytes:
    return struct.pack("<I", value)


def _array(item_type: int, items: list[bytes]) -> bytes:
    return struct.pack("<IQ", item_type, len(items)) + b"".join(items)


def _gguf_model() -> bytes:
    """A model of the llama architecture with a vocabulary, all of it read."""
    integers = {
        "llama.block_count": 1,
        "llama.context_length": 64,
        "llama.embedding_length": 32,
        "llama.feed_forward_length": 32,
        "llama.attention.head_count": 2,
        "llama.attention.head_count_kv": 1,
        "llama.rope.dimension_count": 16,
        "general.alignment": 32,
        "general.file_type": 0,
        "tokenizer.ggml.bos_token_id": 1,
    }
    values = [gguf_value("general.architecture", 8, gguf_string("llama"))]
    values += [gguf_value(key, 4, _u32(value)) for key, value in integers.items()]
    values += [
        gguf_value("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5)),
        gguf_value("llama.rope.freq_base", 6, struct.pack("<f", 1e4)),
        gguf_value("tokenizer.ggml.add_bos_token", 7, b"\1"),
        gguf_value("tokenizer.ggml.model", 8, gguf_string("llama")),
        gguf_value("tokenizer.ggml.tokens", 9, _array(8, [gguf_string(t) for t in ("<unk>", "<s>", "a")])),
        gguf_value("tokenizer.ggml.scores", 9, _array(6, [struct.pack("<f", x) for x in (0, 0, -1)])),
        gguf_value("tokenizer.ggml.token_type", 9, _array(5, [_u32(x) for x in (2, 3, 1)])),
    ]
    shapes = {"token_embd.weight": (32, 3), "output_norm.weight": (32,), "output.weight": (32, 3)}
    rows = {"attn_q": 32, "attn_k": 16, "attn_v": 16, "attn_output": 32, "ffn_gate": 32, "ffn_down": 32, "ffn_up": 32}
    shapes |= {f"blk.0.{name}.weight": (32, n) for name, n in rows.items()}
    shapes |= {"blk.0.attn_norm.weight": (32,), "blk.0.ffn_norm.weight": (32,)}
    records, at = [], 0
    for name, dims in shapes.items():
        records.append(gguf_record(name, dims, 0, at))
        at += 4 * int(np.prod(dims))
    return gguf_bytes(values, records, bytes(at))


def _gguf() -> list[bytes]:
    values = [
        gguf_value("k", 8, gguf_string("text")),
        gguf_value("l", 9, _array(8, [gguf_string("a"), gguf_string("bc")])),
    ]
    sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    values += [gguf_value(f"s{kind}", kind, bytes(size)) for kind, size in sizes.items()]
    values += [gguf_value("n", 9, _array(9, [_array(4, [_u32(1), _u32(2)])]))]
    records = [gguf_record("x", [8, 2], 0, 0), gguf_record("y", [32], 8, 64)]
    return [gguf_bytes(values, records, VALUES), _gguf_model()]


def _ggjt() -> list[bytes]:
    tensors = [("tok_embeddings.weight", [32, 1], 0, VALUES), ("w", [32], 8, bytes(34))]
    old = [("tok_embeddings.weight", [32, 1], 0, VALUES), ("w", [32, 8], 2, bytes(160))]
    return [
        ggjt_bytes(tensors),
        ggjt_bytes(old, version=1),
        ggjt_bytes(old, magic=b"lmgg", version=None, scores=False, aligned=False),
        ggjt_bytes(old, magic=b"fmgg", version=1, aligned=False),
    ]


def _pickles() -> list[bytes]:
    def tensor() -> PickleBuilder:
        return PickleBuilder().tensor("0", 32, [4, 8], [8, 1])

    newer = b"\x80\x04\x95" + bytes(8) + b"\x8c\x05torch\x94\x8c\x04Size\x94\x93\x94K\x01K\x02\x86\x94\x85\x94R\x94."
    parameter = PickleBuilder().global_("torch._utils", "_rebuild_parameter").op(b"(")
    parameter = parameter.op(tensor().code[2:]).op(b"\x89").global_("collections", "OrderedDict").op(b")RtR")
    nested = PickleBuilder().op(b"}").text("model").op(b"}(").text("w").op(b"q\x00").op(tensor().code[2:])
    return [
        PickleBuilder().state_dict("w", tensor()),
        PickleBuilder().state_dict("w", PickleBuilder().tensor("1", 64, [2, 2, 4], [32, 4, 1], offset=3)),
        PickleBuilder().state_dict("w", parameter),
        nested.op(b"us.").code,
        newer,
    ]


def _zips() -> list[bytes]:
    first = _pickles()[0]
    plain = ZipBuilder().add("a/data.pkl", first).add("a/byteorder", b"little").add("a/data/0", VALUES)
    extra = ZipBuilder().add("a/data.pkl", first, local_extra=b"FB\x04\0ZZZZ").add("a/data/0", VALUES, flags=8)
    return [plain.bytes(), extra.bytes(zip64=True)]


def _imatrices() -> list[bytes]:
    entries = random_entries({"blk.0.attn_q.weight": (8, 4), "output.weight": (2, 4)})
    with tempfile.TemporaryDirectory() as folder:
        write_gguf(Path(folder) / "imatrix.gguf", entries)
        written = (Path(folder) / "imatrix.gguf").read_bytes()
    return [written, dat_bytes(entries), dat_bytes(entries, trailer=b"")]


def _tokenizers(make: Callable[..., None], name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        return (Path(folder) / name).read_bytes()


@functools.cache
def TOKENIZER_JSON() -> bytes:
    return _tokenizers(spm_as_json, "tokenizer.json")


def _sentencepieces() -> list[bytes]:
    """ModelProtos by hand. Source of the field numbers: sentencepiece_model.proto."""

    def piece(text: bytes, score: float, kind: int) -> bytes:
        body = b"\x0a" + bytes([len(text)]) + text + b"\x15" + struct.pack("<f", score) + b"\x18" + bytes([kind])
        return b"\x0a" + bytes([len(body)]) + body

    pieces = piece(b"<unk>", 0, 2) + piece(b"<s>", 0, 3) + piece(b"</s>", 0, 3)
    pieces += b"".join(piece(b"<0x%02X>" % i, 0, 6) for i in range(256))
    pieces += piece("▁a".encode(), -1, 1) + piece(b"b", -2, 4)
    return [pieces + b"\x12\x05\x18\x02\x98\x02\x01"]


def _json(*values: object) -> list[bytes]:
    return [json.dumps(value).encode() for value in values]


_LORA = {
    "peft_type": "LORA",
    "r": 8,
    "lora_alpha": 16.0,
    "use_rslora": True,
    "use_dora": False,
    "lora_bias": False,
    "rank_pattern": {"q_proj": 4, r"model\.layers\.0\..*": 2},
    "alpha_pattern": {"lm_head": 3},
    "init_lora_weights": "gaussian",
    "target_modules": ["q_proj"],
    "bias": "none",
}
_SCALINGS = (
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    {"type": "linear", "factor": 2},
    {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 4096, "beta_fast": 32},
    {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0]},
)
_YAML = (
    b"name: pythia-14m\nhf_config:\n  org: EleutherAI\n  name: pythia-14m\nblock_size: 512\nn_layer: 6\nn_head: 4\n"
    b"n_embd: 128\nrope_indices: &id001\n- 0\n- 1\nother: *id001\nsliding_window_size: 8\n",
    b"lora_r: 8\nlora_alpha: 16\nlora_query: true\nlora_key: false\ndata: !!python/object:litgpt.Data\n  seed: 1\n",
    b"lora: {r: 4, alpha: .inf, query: true}\nbase: {<<: {a: 1}, b: 0x10, c: 1:30:00, d: 2001-01-01}\n",
)
_TOKENIZER_CONFIG = {
    "add_bos_token": True,
    "bos_token": {"content": "<s>", "__type": "AddedToken"},
    "eos_token": "</s>",
    "added_tokens_decoder": {"262": {"content": "<tool>", "special": False, "normalized": True}},
    "additional_special_tokens": ["<|im_end|>"],
    "chat_template": [{"name": "default", "template": "{{ x }}"}],
    "model_max_length": 1000000000000000019884624838656,
    "tokenizer_class": "LlamaTokenizer",
    "clean_up_tokenization_spaces": True,
}

# Steps of tokenizer.json as models of the family have them, and those that a fuzzer would hardly find by itself.
TOKENIZER_STEPS: dict[str, dict[str, Any]] = {
    "as it was": {},
    "SentencePiece's spaces": {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
    },
    "Llama 3": {
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|\s+(?!\S)|\s+"},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": {
            "type": "Sequence",
            "processors": [
                {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
                {
                    "type": "TemplateProcessing",
                    "single": [
                        {"SpecialToken": {"id": "<|begin|>", "type_id": 0}},
                        {"Sequence": {"id": "A", "type_id": 0}},
                    ],
                    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                    "special_tokens": {"<|begin|>": {"id": "<|begin|>", "ids": [300], "tokens": ["<|begin|>"]}},
                },
            ],
        },
    },
    "digits and marks by themselves": {
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "StripAccents"}]},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {"type": "Punctuation", "behavior": "Contiguous"},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            ],
        },
    },
    "Metaspace": {
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    },
}


def _tokenizer_jsons() -> list[bytes]:
    sound = _tokenizers(byte_level, "tokenizer.json")
    return [TOKENIZER_JSON(), *_json(*(json.loads(sound) | steps for steps in TOKENIZER_STEPS.values()))]


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "safetensors": lambda: [
        safetensors_bytes({"x": entry("F32", [4, 8], 0, 128), "e": entry("I8", [0], 0, 0)}, VALUES),
        safetensors_bytes({"__metadata__": {"format": "pt"}, "x": entry("BF16", [64], 0, 128)}, VALUES),
    ],
    "torch_zip": _zips,
    "pickle": _pickles,
    "gguf": _gguf,
    "ggjt": _ggjt,
    "imatrix": _imatrices,
    "index": lambda: _json({"metadata": {"total_size": 1}, "weight_map": {"x": "a.safetensors", "y": "a.safetensors"}}),
    "config": lambda: _json(*(LlamaShape().config() | {"rope_scaling": scaling} for scaling in _SCALINGS)),
    "params": lambda: _json(
        {"dim": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "norm_eps": 1e-5, "multiple_of": 32},
        {"model": {"dim": 64, "n_layers": 2, "n_heads": 4, "rope_theta": 500000.0, "use_scaled_rope": True}},
    ),
    "adapter_config": lambda: _json(_LORA),
    "adapter_name": lambda: [
        b"base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight",
        b"base_model.model.lm_head.modules_to_save.default.weight",
        b"model.embed_tokens.lora_embedding_B",
    ],
    "lit_yaml": lambda: list(_YAML),
    "tokenizer_json": _tokenizer_jsons,
    "tokenizer_config": lambda: [*_json(_TOKENIZER_CONFIG), _tokenizers(spm_as_json, "tokenizer_config.json")],
    "sentencepiece": _sentencepieces,
    "checksum": lambda: [b"0" * 64 + b"  model\n", b"\\" + b"f" * 64 + b" *mo\\ndel\n"],
}

_JSON_WORDS = ['"', "{", "}", "[", "]", ":", ",", "NaN", "Infinity", "-1", "1e400", "null", "true", "\\ud800", "9" * 40]
_OPCODES = b"(.0125BCGJKMQRTUXabcehijloqrstu})]\x80\x81\x85\x86\x87\x88\x8a\x8c\x8e\x8f\x90\x93\x94\x95"
WORDS: dict[str, list[bytes]] = {
    "safetensors": [word.encode() for word in (*_JSON_WORDS, "dtype", "shape", "data_offsets", "__metadata__", "F4")],
    "torch_zip": [b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"data.pkl", b"\xff" * 4],
    "pickle": [
        *(b"cos\nsystem\n", b"ctorch\nFloatStorage\n", b"ctorch\nSize\n", b"ccollections\nOrderedDict\n"),
        *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_parameter\n"),
        *(b"\x8c\x01w", b"tQ", b")R", b"tR"),
        *(bytes([op]) for op in _OPCODES),
    ],
    "gguf": [b"GGUF", b"general.alignment", b"general.architecture", b"\xff" * 8, bytes(7) + b"\x80"],
    "ggjt": [b"tjgg", b"lmgg", b"fmgg", b"tok_embeddings.weight", b"\xff" * 4],
    "imatrix": [b".in_sum2", b".counts", b".in_sum", b"imatrix.datasets", b"\xff\xff\x7f\x7f"],
    "lit_yaml": [b"&a", b"*a", b"<<: ", b"!!python/tuple", b"- ", b"? ", b": ", b"|\n", b".nan", b"0x", b"1:1:1", b"{"],
}
for _name in ("index", "config", "params", "adapter_config", "tokenizer_json", "tokenizer_config"):
    WORDS[_name] = [word.encode() for word in _JSON_WORDS]
_STEPS = ["Precompiled", "Prepend", "Replace", "NFKD", "FixedLength", "Split", "CTC", "WordPiece", "BertProcessing"]
_STEPS += ["continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges", "Regex", "String"]
WORDS["tokenizer_json"] += [word.encode() for word in _STEPS]
