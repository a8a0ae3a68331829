"""The tokenizer that --to hf draws from a GGUF file, against the one the file was made with, and against llama.cpp."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastconv import convert
from tests.ggjt import files
from tests.gguf.test_clients import tokens_by_llama_cpp
from tests.models import LlamaShape, random_tensors, write_hf

TEXTS = (
    "Hello world",
    "  two  spaces, tabs\tand\nnewlines\n\n\n  x",
    "Übergröße 3.14159 日本語 🦙 I'LL won't 'tis",
    "HTTPServer getURLFor camelCase ÀÉÎ ǅ 12345 ½",
    "a" * 50,
    " " * 41 + "x" + " " * 7,
    "",
    " ",
    "def f(x):\r\n    return x ** 2  # 𝛑\u00a0\u3000",
)


def write_gguf(path: Path, n_vocab: int, keys: dict[str, Any]) -> None:
    """A llama of no use with these keys of its vocabulary, by gguf's own writer."""
    import gguf

    shape = LlamaShape(n_vocab=n_vocab, n_embd=64, n_ff=64, n_layer=1, n_head_kv=4, tied=True)
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in (("block_count", 1), ("context_length", 64), ("embedding_length", 64)):
        writer.add_uint32(f"llama.{name}", value)
    for name, value in (("feed_forward_length", 64), ("attention.head_count", 4), ("attention.head_count_kv", 4)):
        writer.add_uint32(f"llama.{name}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    for key, value in keys.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string, list: writer.add_array}
        add[type(value)](key if "." in key else f"tokenizer.ggml.{key}", value)
    names = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    modules = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "attn_norm", "ffn_norm")
    rest = [name for name in shape.tensor_shapes() if name not in names]
    for name, found in {**names, **dict(zip(rest, (f"blk.0.{m}.weight" for m in modules), strict=True))}.items():
        writer.add_tensor(found, np.zeros(shape.tensor_shapes()[name], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def drawn(file: Path, folder: Path, **options: Any) -> Any:
    """What AutoTokenizer makes of the folder."""
    import transformers

    result = convert(file, folder, to="hf", **options)
    assert not [note for note in result.notes if "tokenizer" in note]
    return transformers.AutoTokenizer.from_pretrained(folder)


PRE_TOKENIZERS = {
    "gpt-2": (False, ["bytes"]),
    "smollm": (False, ["digits", "bytes"]),
    "starcoder": (False, ["digits", "bytes"]),
    "llama-bpe": (
        True,
        [
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
            r"|\s*[\r\n]+|\s+(?!\S)|\s+"
        ],
    ),
    "tekken": (
        True,
        [
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
            r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
            r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ],
    ),
}


def trained(pre: str) -> Any:
    """A byte-level tokenizer as models with this pre-tokenizer publish it, of 600 tokens."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    ignore_merges, cuts = PRE_TOKENIZERS[pre]
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    parts = {"bytes": pre_tokenizers.ByteLevel(add_prefix_space=False), "digits": pre_tokenizers.Digits(True)}
    found = [parts[cut] if cut in parts else pre_tokenizers.Split(Regex(cut), "isolated") for cut in cuts]
    if "bytes" not in cuts:
        found.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(found)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([text * 3 for text in TEXTS] + ["the rest of the words that he wrote "] * 5, trainer)
    n_base = tokenizer.get_vocab_size()
    tokenizer.add_special_tokens([AddedToken("<|begin|>", special=True), AddedToken("<|end|>", special=True)])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("   ", normalized=False)])
    if ignore_merges:  # those that llama.cpp begins with bos where nothing is said
        tokenizer.post_processor = processors.TemplateProcessing("<|begin|> $A", special_tokens=[("<|begin|>", n_base)])
    return tokenizer


def keys_of(tokenizer: Any, pre: str) -> dict[str, Any]:
    model = json.loads(tokenizer.to_str())["model"]
    n_base, n_all = len(model["vocab"]), tokenizer.get_vocab_size()
    return {
        "model": "gpt2",
        "pre": pre,
        "tokens": [tokenizer.id_to_token(token_id) for token_id in range(n_all)] + ["[PAD0]"],
        "token_type": [1] * n_base + [3, 3, 4, 4, 5],
        "merges": [" ".join(merge) for merge in model["merges"]],
        "bos_token_id": n_base,
        "eos_token_id": n_base + 1,
        "tokenizer.chat_template": "{% for m in messages %}<think>{{ m.content }}<|end|>{% endfor %}",
    }


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_byte_pairs(pre: str, tmp_path: Path) -> None:
    original = trained(pre)
    keys = keys_of(original, pre)
    write_gguf(tmp_path / "in.gguf", len(keys["tokens"]), keys)
    found = drawn(tmp_path / "in.gguf", tmp_path / "out")
    for text in (*TEXTS, *(f"<|begin|>{text}<|end|>  <think>   x {text}" for text in TEXTS)):
        ids = original.encode(text).ids
        assert found(text)["input_ids"] == ids, text
        assert found.decode(ids) == original.decode(ids, skip_special_tokens=False)
        assert found.decode(ids, skip_special_tokens=True) == original.decode(ids)
    assert (found.bos_token, found.eos_token) == ("<|begin|>", "<|end|>")
    chat = found.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False)
    assert chat == "<think>Hello<|end|>"


@pytest.mark.clients
@pytest.mark.parametrize("pre", [*PRE_TOKENIZERS, "smaug-bpe"])
def test_byte_pairs_as_llama_cpp_cuts(pre: str, tmp_path: Path) -> None:
    keys = keys_of(trained("llama-bpe" if pre == "smaug-bpe" else pre), pre)
    write_gguf(tmp_path / "in.gguf", len(keys["tokens"]), keys)
    found = drawn(tmp_path / "in.gguf", tmp_path / "out")
    expected = tokens_by_llama_cpp(tmp_path / "in.gguf", TEXTS)
    assert [found(text, add_special_tokens=False)["input_ids"] for text in TEXTS] == expected


SPM_MODELS = ("tokenizer.model.v1", "mistral_instruct_tokenizer_240323.model.v3")


@pytest.mark.parametrize("name", SPM_MODELS)
def test_pieces(name: str, tmp_path: Path) -> None:
    """From Hugging Face to GGUF and back; the original is SentencePiece itself."""
    import sentencepiece

    proto = resources.files("mistral_common").joinpath("data", name).read_bytes()
    original = sentencepiece.SentencePieceProcessor(model_proto=proto)
    shape = LlamaShape(n_vocab=original.vocab_size() + 8, n_embd=64, n_ff=64, n_layer=1)
    write_hf(tmp_path / "hf", shape, tokenizer=False)
    (tmp_path / "hf" / "tokenizer.model").write_bytes(proto)
    (tmp_path / "hf" / "added_tokens.json").write_text(json.dumps({"<extra>": original.vocab_size()}))
    (tmp_path / "hf" / "tokenizer_config.json").write_text('{"add_bos_token": true, "add_eos_token": false}')
    (tmp_path / "model").mkdir()
    convert(tmp_path / "hf", tmp_path / "model" / "in.gguf")
    found = drawn(tmp_path / "model" / "in.gguf", tmp_path / "out")
    again = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "out" / "tokenizer.model"))
    for text in TEXTS:
        ids = original.encode(text)
        assert again.encode(text) == ids, text
        if text:  # tokenizers puts a space before nothing as well
            assert found(text)["input_ids"] == [original.bos_id(), *ids], text
        assert again.decode(ids) == original.decode(ids) == found.decode(ids)
    assert found("<extra>", add_special_tokens=False)["input_ids"] == [original.vocab_size()]
    assert (again.unk_id(), again.bos_id(), again.eos_id(), again.pad_id()) == (0, 1, 2, -1)
    convert(tmp_path / "out", tmp_path / "again.gguf")
    before, after = vocabulary_of(tmp_path / "model" / "in.gguf"), vocabulary_of(tmp_path / "again.gguf")
    assert {key: after[key] for key in before} == before


def vocabulary_of(path: Path) -> dict[str, Any]:
    from gguf import GGUFReader

    fields = GGUFReader(path).fields
    return {key: field.contents() for key, field in fields.items() if key.startswith("tokenizer.")}


SPM_KEYS: dict[str, Any] = {
    "model": "llama",
    "tokens": ["<unk>", "<s>", "</s>", "a", "b", "ab"],
    "token_type": [2, 3, 3, 1, 1, 1],
    "scores": [0.0, 0.0, 0.0, -1.0, -2.0, -3.0],
}
BPE_KEYS: dict[str, Any] = {
    "model": "gpt2",
    "pre": "gpt-2",
    "tokens": ["a", "b", "ab"],
    "token_type": [1, 1, 1],
    "merges": ["a b"],
}


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (SPM_KEYS | {"model": "t5"}, "holds a vocabulary of an unknown kind"),
        (SPM_KEYS | {"tokens": ["<unk>", "<s>", "</s>", "a", "a", "aa"]}, "holds a token twice"),
        (SPM_KEYS | {"tokens": ["<unk>", "<s>", "", "a", "b", "ab"]}, "or an empty one"),
        (SPM_KEYS | {"token_type": [1, 3, 3, 1, 1, 1]}, "has no single token for what is unknown"),
        (
            SPM_KEYS
            | {"tokens": [*SPM_KEYS["tokens"], "ba"], "token_type": [2, 3, 3, 1, 1, 1, 1]}
            | {"scores": [*SPM_KEYS["scores"], -3.0]},
            "tokens of the same score",
        ),
        (BPE_KEYS | {"pre": "default"}, "cuts text in a way that is not known here"),
        (BPE_KEYS | {"merges": ["a b c"]}, "a merge that is no pair"),
        (BPE_KEYS | {"merges": ["b b"]}, "merges what are no tokens"),
    ],
)
def test_a_note_says_why_there_is_none(keys: dict[str, Any], reason: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "in.gguf", len(keys["tokens"]), keys)
    result = convert(tmp_path / "in.gguf", tmp_path / "out", to="hf")
    assert any(note.startswith("no tokenizer was written: ") and reason in note for note in result.notes)
    assert not list((tmp_path / "out").glob("tokenizer*"))


def test_one_that_stands_beside_is_copied(tmp_path: Path) -> None:
    write_gguf(tmp_path / "in.gguf", 6, SPM_KEYS)
    (tmp_path / "tokenizer.json").write_text("{}")
    convert(tmp_path / "in.gguf", tmp_path / "out", to="hf")
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"
    assert not (tmp_path / "out" / "tokenizer.model").exists()


def test_pieces_of_a_file_of_2023(tmp_path: Path) -> None:
    import sentencepiece

    model = files.real_spm_model()
    shape = LlamaShape(n_vocab=32000, n_embd=64, n_ff=192, n_layer=1, n_head_kv=4)
    files.write(tmp_path / "in.bin", shape, random_tensors(shape), files.spm_tokens(model), "f16", 1, 192)
    found = drawn(tmp_path / "in.bin", tmp_path / "out", rms_eps=1e-6)
    original = sentencepiece.SentencePieceProcessor(model_proto=model)
    for text in filter(None, TEXTS):
        assert found(text)["input_ids"] == [original.bos_id(), *original.encode(text)], text
