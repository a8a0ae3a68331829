"""Model folders whose GGUF metadata was recorded from llama.cpp's own converter (tests/golden/gguf/make.py)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from tests.models import LlamaShape, spm_model, write_hf

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
MISTRAL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
CARD = """---
license: apache-2.0
language:
- en
- no
tags:
- text-generation
- tiny
base_model:
- example/Base-Model-7B-v0.3
- https://huggingface.co/example/Other-1B-Instruct
datasets:
- example/corpus
pipeline_tag: text-generation
---
# A card
"""


@dataclass(frozen=True)
class Case:
    """folder: name of the model's folder, which says something too. files: what stands beside the weights."""

    name: str
    folder: str = "tiny"
    shape: LlamaShape = field(default_factory=LlamaShape)
    files: dict[str, Any] = field(default_factory=dict)
    tokenizer: Callable[[Path], None] | None = None
    dtype: str = "BF16"
    drop: tuple[str, ...] = ()

    def write(self, parent: Path) -> Path:
        directory = parent / self.folder
        write_hf(directory, self.shape, dtype=self.dtype, tokenizer=self.tokenizer is None)
        if self.tokenizer is not None:
            self.tokenizer(directory)
        for name, content in self.files.items():
            path = directory / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        if self.drop:
            config = json.loads((directory / "config.json").read_text())
            (directory / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in self.drop}))
        return directory


def byte_level(
    directory: Path,
    n_tokens: int = 300,
    *,
    pairs: bool = False,
    post: str | None = None,
    added: tuple[tuple[str, bool, bool], ...] = (
        ("<|begin|>", True, False),
        ("<|end|>", True, False),
        ("<|turn|>", True, False),
    ),
    merges_beside: bool = False,
    normalizer: dict[str, Any] | None = None,
    **config: Any,
) -> None:
    """A byte-level BPE tokenizer.json of n_tokens and the added ones: (content, special, normalized)."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: index for index, letter in enumerate(alphabet)}
    merges: list[tuple[str, str]] = []
    pool = [*"etaoinshrdlu", "Ġ"]
    for left in pool:
        for right in pool:
            if len(vocab) < n_tokens and left + right not in vocab and right != "Ġ":
                vocab[left + right] = len(vocab)
                merges.append((left, right))
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    for content, special, normalized in added:
        tokenizer.add_tokens([AddedToken(content, special=special, normalized=normalized)])
    if post == "bytes":
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    elif post is not None:
        used = [(token, tokenizer.token_to_id(token)) for token in ("<|begin|>", "<|end|>")]
        tokenizer.post_processor = processors.TemplateProcessing(single=post, pair=f"{post} $B:1", special_tokens=used)
    found = json.loads(tokenizer.to_str())
    found["normalizer"] = normalizer
    listed = found["model"]["merges"]
    found["model"]["merges"] = [
        (list(pair) if not isinstance(pair, str) else pair.split(" "))
        if pairs
        else (pair if isinstance(pair, str) else " ".join(pair))
        for pair in listed
    ]
    if merges_beside:
        (directory / "merges.txt").write_text("#version: 0.2\n" + "\n".join(f"{a} {b}" for a, b in merges) + "\n")
        found["model"]["merges"] = []
    (directory / "tokenizer.json").write_text(json.dumps(found), encoding="utf-8")
    defaults = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin|>",
        "eos_token": "<|end|>",
        "clean_up_tokenization_spaces": False,
        "chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(defaults | config), encoding="utf-8")


def small_spm(directory: Path) -> None:
    (directory / "tokenizer.model").write_bytes(spm_model(320))


def spm_as_json(directory: Path, n_words: int = 20, **config: Any) -> None:
    """A tokenizer.json that stands for a SentencePiece model: BPE with byte fallback."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"etaoin"]
    merges = [("▁", letter) for letter in "etaoin"] + [("e", "t"), ("t", "e")]
    tokens += [a + b for a, b in merges]
    tokenizer = Tokenizer(
        models.BPE(
            {token: index for index, token in enumerate(tokens)},
            merges,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens[:3]])
    tokenizer.add_tokens([AddedToken("<tool>", special=False), AddedToken("<|im_end|>", special=True)])
    (directory / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    defaults = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(defaults | config), encoding="utf-8")


def _shape(**options: Any) -> LlamaShape:
    return LlamaShape(**options)


CASES = (
    Case("llama"),
    Case("llama_mha", shape=_shape(n_head_kv=4), dtype="F16"),
    Case("head_dim", shape=_shape(head_dim=32)),
    Case("tied", shape=_shape(tied=True)),
    Case("biases", shape=_shape(attention_bias=True, mlp_bias=True)),
    Case("many_layers", shape=_shape(n_layer=12)),
    Case(
        "defaults",
        drop=("max_position_embeddings", "rms_norm_eps", "rope_theta", "num_key_value_heads"),
        shape=_shape(n_head_kv=4),
    ),
    Case("rope_linear", shape=_shape(extra={"rope_scaling": {"type": "linear", "factor": 4.0}})),
    Case("rope_dynamic", shape=_shape(extra={"rope_scaling": {"type": "dynamic", "factor": 2.0}})),
    Case(
        "rope_yarn",
        shape=_shape(
            extra={
                "rope_scaling": {
                    "rope_type": "yarn",
                    "factor": 16.0,
                    "original_max_position_embeddings": 64,
                    "beta_fast": 32,
                    "beta_slow": 1.0,
                    "attention_factor": 0.9,
                }
            }
        ),
    ),
    Case("rope_yarn_short", shape=_shape(extra={"rope_scaling": {"type": "yarn", "factor": 2.0}})),
    Case("rope_llama3", shape=_shape(head_dim=64, extra={"rope_scaling": LLAMA3_ROPE, "rope_theta": 500000.0})),
    Case(
        "rope_parameters",
        shape=_shape(extra={"rope_parameters": LLAMA3_ROPE | {"rope_theta": 500000}}),
        drop=("rope_theta",),
    ),
    Case("mistral", shape=_shape(extra=MISTRAL | {"sliding_window": 4096, "rope_theta": 1000000.0})),
    Case("mistral_head_dim", shape=_shape(head_dim=32, extra=MISTRAL | {"sliding_window": None})),
    Case("code_llama", shape=_shape(n_vocab=32016, n_embd=8, n_ff=32, n_layer=1, n_head=2), tokenizer=small_spm),
    Case(
        "ids_in_config",
        shape=_shape(extra={"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}),
        files={"tokenizer_config.json": {"add_bos_token": True, "add_eos_token": False, "add_prefix_space": True}},
    ),
    Case("ids_in_list", shape=_shape(extra={"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": -1 + 1})),
    Case(
        "added_tokens",
        shape=_shape(n_vocab=330),
        tokenizer=None,
        files={
            "added_tokens.json": {"<pad>": 320, "<tool>": 321},
            "tokenizer_config.json": {
                "added_tokens_decoder": {
                    "0": {"content": "<unk>", "special": True},
                    "1": {"content": "<s>", "special": True},
                    "321": {"content": "<tool>", "special": False},
                    "322": {"content": "<|im_end|>", "special": False},
                    "323": {"content": "▁▁", "special": False},
                }
            },
        },
    ),
    Case("padded", shape=_shape(n_vocab=352)),
    Case("name_with_size", folder="Tiny-Llama-1.1B-Chat-v1.0"),
    Case("name_with_small_size", folder="Tiny-Llama-60K-Instruct"),
    Case("name_with_spaces", folder="My model"),
    Case("name_in_config", shape=_shape(extra={"_name_or_path": "meta-llama/Llama-2-7b-chat-hf"})),
    Case("card", folder="Card-Model-1B", files={"README.md": CARD}),
    Case("card_without_front_matter", files={"README.md": "# Nothing\n"}),
    Case(
        "card_of_ours",
        files={
            "README.md": "---\nname: Named\nauthor: Someone\nversion: v2\nlicense:\n- mit\n- other\n"
            "license_name: x\nlicense_link: y\nurl: z\n---\n"
        },
    ),
    Case(
        "sampling",
        files={
            "generation_config.json": {
                "temperature": 0.6,
                "top_p": 0.9,
                "top_k": 50,
                "min_p": 0.05,
                "repetition_penalty": 1.1,
                "max_length": 4096,
            }
        },
    ),
    Case("chat_template", files={"tokenizer_config.json": {"chat_template": "{{ bos_token }}ünïcode"}}),
    Case(
        "chat_template_named",
        files={
            "tokenizer_config.json": {
                "chat_template": [{"name": "default", "template": "A"}, {"name": "tool-use", "template": "B"}]
            }
        },
    ),
    Case("chat_template_file", files={"tokenizer_config.json": {"add_bos_token": True}, "chat_template.jinja": "C"}),
    Case(
        "chat_template_files",
        files={
            "tokenizer_config.json": {"add_bos_token": True},
            "chat_template.jinja": "C",
            "additional_chat_templates/rag.jinja": "D",
        },
    ),
    Case("bpe", shape=_shape(tied=True), tokenizer=byte_level),
    Case("bpe_pairs", tokenizer=partial(byte_level, pairs=True, add_prefix_space=False)),
    Case("bpe_merges_txt", tokenizer=partial(byte_level, merges_beside=True)),
    Case("bpe_bytes_post", tokenizer=partial(byte_level, post="bytes")),
    Case("bpe_template", tokenizer=partial(byte_level, post="<|begin|>:0 $A:0")),
    Case(
        "bpe_template_eos",
        tokenizer=partial(byte_level, post="<|begin|>:0 $A:0 <|end|>:0", eos_token="<|turn|>", add_bos_token=False),
    ),
    Case(
        "bpe_llama_class",
        tokenizer=partial(
            byte_level,
            post="<|begin|>:0 $A:0",
            tokenizer_class="LlamaTokenizerFast",
            add_bos_token=True,
            add_eos_token=False,
            unk_token=None,
        ),
    ),
    Case(
        "bpe_named",
        tokenizer=partial(
            byte_level,
            added=(("<s>", True, False), ("</s>", False, False)),
            bos_token="<s>",
            eos_token={"__type": "AddedToken", "content": "</s>", "special": False, "normalized": False},
            unk_token="et",
        ),
    ),
    Case(
        "bpe_special_tokens_map",
        tokenizer=partial(byte_level, eos_token=None),
        files={"special_tokens_map.json": {"eos_token": "ee", "pad_token": {"content": "tt", "normalized": True}}},
    ),
    Case(
        "bpe_added_tokens_json",
        tokenizer=byte_level,
        files={"added_tokens.json": {"<|begin|>": 300, "<tool>": 303, "<|end|>": 301}},
    ),
    Case(
        "bpe_added",
        tokenizer=partial(
            byte_level,
            added=(
                ("<|begin|>", True, False),
                ("<|end|>", False, False),
                ("  ", False, True),
                ("▁x", False, True),
                ("<pad>", False, True),
            ),
            added_tokens_decoder={
                "300": {"content": "<|begin|>", "special": True, "normalized": False},
                "301": {"content": "<|end|>", "special": True, "normalized": False},
                "302": {"content": "  ", "special": False, "normalized": False},
            },
            pad_token="<pad>",
            additional_special_tokens=["▁x"],
        ),
    ),
    Case(
        "bpe_normalizer",
        tokenizer=partial(
            byte_level,
            normalizer={"type": "Sequence", "normalizers": [{"type": "Lowercase"}, {"type": "StripAccents"}]},
        ),
    ),
    Case("granite_size", shape=_shape(n_vocab=49152, n_embd=8, n_ff=32, n_layer=1, n_head=2), tokenizer=byte_level),
    Case(
        "granite_size_with_bos",
        shape=_shape(n_vocab=49152, n_embd=8, n_ff=32, n_layer=1, n_head=2),
        tokenizer=partial(byte_level, add_bos_token=True),
    ),
    Case("spm_as_json", shape=_shape(n_vocab=276), tokenizer=spm_as_json),
)
