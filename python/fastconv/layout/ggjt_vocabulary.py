"""A vocabulary as text and scores, the only form that GGJT files knew.

What the readers of the time did with it (merge by score, byte b = token b + 3) is theirs; this file writes what
convert.py wrote in 2023 (llama.cpp pull requests 252, 545 and, for BPE, 2228). Knows nothing of tensors.
"""

from __future__ import annotations

import struct
from functools import lru_cache

from fastconv.errors import VocabularyError
from fastconv.vocab.vocabulary import ADDED_SCORE, LLAMA_IDS, TokenType, Vocabulary

_WORD_START = "\u2581".encode()
_UNKNOWN_TEXT = " \u2047 ".encode()


def token_records(vocabulary: Vocabulary, n_vocab: int) -> bytes:
    """Every token as u32 length, text, f32 score, in id order.

    n_vocab: rows of the embedding, of which each needs a token. Raises VocabularyError if there are more or fewer, and
    for a token whose text cannot be told.
    """
    found = len(vocabulary.tokens)
    if found != n_vocab:
        raise VocabularyError(
            "the tokenizer and the embedding disagree",
            found=f"{found} tokens",
            expected=f"{n_vocab}, one per row of the embedding",
            fix="check that tokenizer and added_tokens.json belong to this model",
        )
    record = {"spm": _spm_token, "bpe": _bpe_token}[vocabulary.kind]
    parts: list[bytes] = []
    for token_id in range(n_vocab):
        text, score = record(vocabulary, token_id)
        parts += [struct.pack("<I", len(text)), text, struct.pack("<f", score)]
    return b"".join(parts)


def vocabulary_notes(vocabulary: Vocabulary) -> list[str]:
    """What readers of GGJT files will do with this vocabulary that its own tokenizer would not."""
    notes = []
    if vocabulary.kind == "bpe":
        notes.append("GGJT holds no BPE merges: its readers tokenize by score, not always as the model's tokenizer")
    for role in ("bos", "eos"):
        token_id = vocabulary.special_ids.get(role)
        if token_id is not None and token_id != LLAMA_IDS[role]:
            notes.append(f"GGJT readers take token {LLAMA_IDS[role]} for {role}, this model uses {token_id}")
    return notes


def _is_added(vocabulary: Vocabulary, token_id: int) -> bool:
    return vocabulary.n_base is not None and token_id >= vocabulary.n_base


def _spm_token(vocabulary: Vocabulary, token_id: int) -> tuple[bytes, float]:
    text, kind, score = vocabulary.tokens[token_id], vocabulary.types[token_id], vocabulary.scores[token_id]
    if _is_added(vocabulary, token_id):
        return text, score
    # Tokenizer configurations of today list the unknown token as one more control token and lower the scores of both.
    if kind == TokenType.UNKNOWN or (kind == TokenType.CONTROL and text == b"<unk>"):
        return _UNKNOWN_TEXT, 0.0
    if kind == TokenType.CONTROL:
        return b"", 0.0
    if kind == TokenType.BYTE:
        return _byte_of(text, token_id), score
    return text.replace(_WORD_START, b" "), score


def _byte_of(text: bytes, token_id: int) -> bytes:
    """<0xHH> -> that byte."""
    if len(text) == 6 and text.startswith(b"<0x") and text.endswith(b">"):
        try:
            return bytes.fromhex(text[3:5].decode("ascii"))
        except ValueError:
            pass
    raise VocabularyError(f"token {token_id} is of type byte but is not spelled <0xHH>", found=repr(text))


def _bpe_token(vocabulary: Vocabulary, token_id: int) -> tuple[bytes, float]:
    text = vocabulary.tokens[token_id]
    if vocabulary.types[token_id] != TokenType.NORMAL:
        return text, ADDED_SCORE
    alphabet = _byte_alphabet()
    try:
        return bytes(alphabet[letter] for letter in text.decode()), -float(token_id)
    except (KeyError, UnicodeDecodeError):
        raise VocabularyError(
            f"token {token_id} is not spelled in the byte-level alphabet of GPT-2", found=repr(text)
        ) from None


@lru_cache(maxsize=1)
def _byte_alphabet() -> dict[str, int]:
    """The letter that stands for each byte: itself where Latin-1 prints it, else U+0100 on in byte order.

    Source: Radford et al., gpt-2, src/encoder.py, bytes_to_unicode.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}
