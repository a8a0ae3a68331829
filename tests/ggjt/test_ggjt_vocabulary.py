"""Tokens as GGJT files spell them, against convert.py's rules and the byte-level alphabet of GPT-2."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from fastconv.errors import VocabularyError
from fastconv.layout.ggjt_vocabulary import token_records, vocabulary_notes
from fastconv.vocab.load import load_vocabulary
from fastconv.vocab.vocabulary import TokenType, Vocabulary
from tests.ggjt import files


def parse(records: bytes, n_tokens: int) -> list[tuple[bytes, float]]:
    tokens, at = [], 0
    for _ in range(n_tokens):
        (length,) = struct.unpack_from("<I", records, at)
        text = records[at + 4 : at + 4 + length]
        (score,) = struct.unpack_from("<f", records, at + 4 + length)
        tokens.append((text, score))
        at += 8 + length
    assert at == len(records)
    return tokens


def spm(**changes) -> Vocabulary:
    fields = {
        "kind": "spm",
        "tokens": [b"<unk>", b"<s>", b"</s>", b"<0x0A>", "\u2581the".encode(), b"[UNUSED]", b"<pad>", b"<|im_end|>"],
        "types": [
            TokenType.UNKNOWN,
            TokenType.CONTROL,
            TokenType.CONTROL,
            TokenType.BYTE,
            TokenType.NORMAL,
            TokenType.UNUSED,
            TokenType.USER_DEFINED,
            TokenType.CONTROL,
        ],
        "scores": [0.0, 0.0, 0.0, 0.0, -3.5, -10000.0, -1000.0, -1000.0],
        "special_ids": {"unk": 0, "bos": 1, "eos": 2},
        "n_base": 6,
    }
    return Vocabulary(**(fields | changes))


SPM_TEXTS = [
    (" \u2047 ".encode(), 0.0),
    (b"", 0.0),
    (b"", 0.0),
    (b"\n", 0.0),
    (b" the", -3.5),
    (b"[UNUSED]", -10000.0),
    (b"<pad>", -1000.0),
    (b"<|im_end|>", -1000.0),
]


def test_sentencepiece() -> None:
    assert parse(token_records(spm(), 8), 8) == SPM_TEXTS
    assert vocabulary_notes(spm()) == []


def test_special_tokens_named_once_more_by_the_tokenizer_configuration() -> None:
    types = [TokenType.CONTROL, *spm().types[1:]]
    scores = [-1000.0, -1000.0, -1000.0, *spm().scores[3:]]
    assert parse(token_records(spm(types=types, scores=scores), 8), 8) == SPM_TEXTS


def test_the_real_vocabulary_with_added_tokens_and_padding(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(files.real_spm_model())
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<pad>": 32000, "<|im_end|>": 32001}))
    special = {str(i): {"content": text, "special": True} for i, text in enumerate(("<unk>", "<s>", "</s>"))}
    special["32001"] = {"content": "<|im_end|>", "special": True}
    config = {"added_tokens_decoder": special, "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    vocabulary = load_vocabulary(tmp_path, 32003, config={})
    added = [(b"<pad>", -1000.0), (b"<|im_end|>", -1000.0), (b"[PAD32002]", -10000.0)]
    expected = files.spm_tokens(files.real_spm_model()) + added
    assert parse(token_records(vocabulary, 32003), 32003) == expected


def test_added_tokens_unknown_controls_have_no_text() -> None:
    tokens = parse(token_records(spm(n_base=None), 8), 8)
    assert tokens[7] == (b"", 0.0)
    assert tokens[6] == (b"<pad>", -1000.0)


@pytest.mark.parametrize("text", [b"<0xG0>", b"<0x1>", b"abc", b"<0x0A>>", b"<0x\xc3\xa9>"])
def test_byte_token_that_is_none(text: bytes) -> None:
    tokens = spm().tokens.copy()
    tokens[3] = text
    with pytest.raises(VocabularyError, match=r"^token 3 is of type byte but is not spelled <0xHH>: found"):
        token_records(spm(tokens=tokens), 8)


def test_bpe_is_decoded_through_the_byte_alphabet() -> None:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = bytes_to_unicode()
    words = [bytes([byte]) for byte in range(256)] + [" caf\u00e9".encode(), b"\n\n"]
    spelled = ["".join(letters[byte] for byte in word).encode() for word in words]
    vocabulary = Vocabulary(
        kind="bpe",
        tokens=[*spelled, b"<|end|>"],
        types=[TokenType.NORMAL] * len(words) + [TokenType.CONTROL],
        special_ids={"bos": 258, "eos": 258},
    )
    tokens = parse(token_records(vocabulary, 259), 259)
    assert tokens == [(word, -float(i)) for i, word in enumerate(words)] + [(b"<|end|>", -1000.0)]
    assert vocabulary_notes(vocabulary) == [
        "GGJT holds no BPE merges: its readers tokenize by score, not always as the model's tokenizer",
        "GGJT readers take token 1 for bos, this model uses 258",
        "GGJT readers take token 2 for eos, this model uses 258",
    ]


@pytest.mark.parametrize("text", ["a b", "\u2581the", "\U0001f600"])
def test_bpe_token_outside_the_alphabet(text: str) -> None:
    vocabulary = Vocabulary(kind="bpe", tokens=[text.encode()], types=[TokenType.NORMAL])
    with pytest.raises(VocabularyError, match=r"^token 0 is not spelled in the byte-level alphabet of GPT-2: found"):
        token_records(vocabulary, 1)


def test_bpe_token_that_is_not_utf8() -> None:
    vocabulary = Vocabulary(kind="bpe", tokens=[b"\xff"], types=[TokenType.NORMAL])
    with pytest.raises(VocabularyError, match=r"^token 0 is not spelled"):
        token_records(vocabulary, 1)
