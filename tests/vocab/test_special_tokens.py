"""Special tokens against gguf's SpecialVocab, and the rules that are newer than its release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest

from fastconv.vocab.files import TokenizerFiles
from fastconv.vocab.special_tokens import read_special_tokens

ADDED = [{"id": index, "content": content} for index, content in enumerate(("<s>", "</s>", "<t>", "<sep>", "<cls>"))]


def template(*parts: str) -> list[dict[str, Any]]:
    return [{"Sequence" if part in "AB" else "SpecialToken": {"id": part, "type_id": 0}} for part in parts]


def processor(single: tuple[str, ...], pair: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"type": "TemplateProcessing", "single": template(*single), "pair": template(*pair)}


@pytest.mark.parametrize(
    ("post_processor", "tokenizer_config"),
    [
        (None, {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "add_bos_token": True}),
        (None, {"bos_token": "<unknown>", "eos_token": {"content": 3}, "add_eos_token": "yes"}),
        (processor(("<s>", "A")), {"bos_token": "<s>", "eos_token": "</s>"}),
        (processor(("<s>", "A")), None),
        (processor(("<s>", "A", "</s>"), ("<s>", "A", "</s>", "B", "</s>")), {"bos_token": "<s>", "eos_token": "</s>"}),
        (processor(("A", "</s>")), {"bos_token": "<s>", "eos_token": "<t>"}),
        (processor(("A", "</s>")), {"eos_token": {"content": "</s>"}}),
        (processor(("A",), ("A", "<sep>", "B")), {"sep_token": "<sep>"}),
        (processor(("A",), ("A", "</s>", "</s>", "B")), {"eos_token": "</s>"}),
        (
            processor(("<cls>", "A", "<sep>"), ("<cls>", "A", "<sep>", "B", "<sep>")),
            {"cls_token": "<cls>", "sep_token": "<sep>"},
        ),
        (
            {"type": "RobertaProcessing", "sep": ["</s>", 1], "cls": ["<s>", 0]},
            {"bos_token": "<s>", "eos_token": "</s>"},
        ),
        ({"type": "Sequence", "processors": [processor(("<s>", "A"))]}, {"bos_token": "<s>", "add_bos_token": True}),
        (None, {"chat_template": "x", "bos_token": "<s>"}),
        (None, {"chat_template": [{"name": "default", "template": "x"}]}),
        (None, {"chat_template": 3}),
        (None, {}),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_released_rules(
    post_processor: dict[str, Any] | None, tokenizer_config: dict[str, Any] | None, tmp_path: Path
) -> None:
    config = {"bos_token_id": 0, "pad_token_id": 2, "eos_token_id": [1]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": ADDED, "post_processor": post_processor}))
    if tokenizer_config is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    expected = gguf.SpecialVocab(tmp_path, n_vocab=5)
    found = read_special_tokens(TokenizerFiles(tmp_path), config, 5)
    assert list(found.ids.items()) == list(expected.special_token_ids.items())
    assert list(found.add.items()) == list(expected.add_special_token.items())
    assert found.chat_template == expected.chat_template


def test_rules_newer_than_the_release(tmp_path: Path) -> None:
    """llama.cpp b11434: post-processors outweigh add_bos_token, byte-level ones add nothing, normalizers count."""
    tokenizer = {
        "added_tokens": ADDED,
        "post_processor": {"type": "Sequence", "processors": [{"type": "ByteLevel"}, processor(("<s>", "A"))]},
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "Lowercase"}, {"type": "BertNormalizer", "strip_accents": True}],
        },
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": False, "bos_token": "<s>"}))
    found = read_special_tokens(TokenizerFiles(tmp_path), {}, None)
    assert found.add == {"bos": True, "eos": False}
    assert (found.lowercase, found.strip_accents) == (True, True)


@pytest.mark.parametrize(
    "tokenizer",
    [
        {"post_processor": 3, "normalizer": [], "added_tokens": {}},
        {"post_processor": {"processors": 3}, "added_tokens": [3, {"content": []}]},
        {"post_processor": {"processors": [3, {"type": "TemplateProcessing", "single": 3, "pair": [3]}]}},
        {"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": 3}, {"Sequence": []}]}},
        {"post_processor": {"type": "RobertaProcessing", "cls": 3, "sep": []}},
        {"normalizer": {"type": "Sequence", "normalizers": 3}},
    ],
)
def test_malformed_parts_say_nothing(tokenizer: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>"}))
    assert read_special_tokens(TokenizerFiles(tmp_path), {}, None).ids == {}
