"""tokenizer.model and the tokens added beside it -> pieces, scores and types, as llama.cpp stores them.

Source of the rules: llama.cpp b11434, conversion/base.py (_create_vocab_sentencepiece).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import compress
from typing import Any

from fastconv.errors import VocabularyError
from fastconv.vocab.files import SENTENCEPIECE_MODEL, TokenizerFiles
from fastconv.vocab.guard import guarded
from fastconv.vocab.vocabulary import ADDED_SCORE, PADDING_SCORE, TokenType

_MOST_DIGITS = 1000  # Python makes no integers of texts that are much longer


@dataclass(slots=True, eq=False)
class Pieces:
    """Columns of a vocabulary, one entry per token. n_base: pieces of the SentencePiece model itself."""

    tokens: list[bytes]
    scores: list[float]
    types: list[int]
    n_base: int


def read_pieces(files: TokenizerFiles, n_vocab: int) -> Pieces:
    """The vocabulary of tokenizer.model, added_tokens.json and tokenizer_config.json.

    n_vocab: rows of the embedding; the vocabulary is padded to it. Raises VocabularyError for malformed files, a larger
    vocabulary and ids from n_vocab on.
    """
    pieces = _model_pieces(files)
    if pieces.n_base > n_vocab:
        raise VocabularyError(
            "is larger than the model's embedding",
            file=files.path(SENTENCEPIECE_MODEL),
            found=f"{pieces.n_base} pieces",
            expected=f"at most {n_vocab}",
            fix="give the model's own tokenizer with --vocab-dir",
        )
    padding = range(pieces.n_base, n_vocab)
    pieces.tokens += [b"[PAD%d]" % token_id for token_id in padding]
    pieces.scores += [PADDING_SCORE] * len(padding)
    pieces.types += [TokenType.UNUSED] * len(padding)
    for token_id, text, token_type in _added(files, n_vocab):
        pieces.tokens[token_id] = text.encode()
        pieces.scores[token_id] = ADDED_SCORE
        pieces.types[token_id] = token_type
    return pieces


def looks_special(token: str) -> bool:
    """Whether an added token controls the model by its looks, though its tokenizer does not call it special.

    Source: llama.cpp b11434, conversion/base.py (does_token_look_special).
    """
    return (
        token in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
        or (token.startswith("<|") and token.endswith("|>"))
        or (token.startswith("<｜") and token.endswith("｜>"))
        or (token.startswith("<unused") and token.endswith(">"))
    )


def added_token_type(token: str, special: bool) -> tuple[str, TokenType]:
    """An added token as llama.cpp stores it: text that is matched before normalization has plain spaces."""
    if special or looks_special(token):
        return token, TokenType.CONTROL
    return token.replace("\u2581", " "), TokenType.USER_DEFINED


def _model_pieces(files: TokenizerFiles) -> Pieces:
    from sentencepiece import SentencePieceProcessor

    path = files.path(SENTENCEPIECE_MODEL)
    processor = SentencePieceProcessor()
    try:
        with guarded(path):
            processor.LoadFromSerializedProto(files.bytes(SENTENCEPIECE_MODEL))
    except (RuntimeError, UnicodeDecodeError):  # the latter where its message quotes the file
        raise VocabularyError(
            "is not a SentencePiece model", file=path, fix="download or copy it again, or give --vocabtype bpe"
        ) from None
    ids = list(range(processor.vocab_size()))
    types = [int(TokenType.NORMAL)] * len(ids)
    # Where a piece is of several kinds, the last one here is llama.cpp's choice.
    for token_type, has_type in (
        (TokenType.BYTE, processor.IsByte),
        (TokenType.UNUSED, processor.IsUnused),
        (TokenType.CONTROL, processor.IsControl),
        (TokenType.UNKNOWN, processor.IsUnknown),
    ):
        for token_id in compress(ids, has_type(ids)):
            types[token_id] = token_type
    try:
        tokens = list(map(str.encode, processor.IdToPiece(ids)))
    except UnicodeError:
        raise VocabularyError("holds a piece that is not UTF-8 text", file=path) from None
    return Pieces(tokens, processor.GetScore(ids), types, len(ids))


def _added(files: TokenizerFiles, n_vocab: int) -> list[tuple[int, str, TokenType]]:
    """(id, text, type) of tokens beside the model; where an id stands twice, the later one counts."""
    added: list[tuple[int, str, TokenType]] = []
    for text, token_id in (files.object("added_tokens.json") or {}).items():
        added.append(
            (_checked_id(token_id, n_vocab, files.path("added_tokens.json"), text), text, TokenType.USER_DEFINED)
        )
    path = files.path("tokenizer_config.json")
    decoder = (files.object("tokenizer_config.json") or {}).get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict):
        raise VocabularyError(
            "added_tokens_decoder has the wrong JSON value",
            file=path,
            found=type(decoder).__name__,
            expected="an object",
        )
    for key, token in decoder.items():
        content = token.get("content") if isinstance(token, dict) else None
        if not isinstance(content, str):
            raise VocabularyError(f"added_tokens_decoder has no content for id {key}", file=path)
        token_id = _checked_id(
            int(key) if key.isdecimal() and len(key) <= _MOST_DIGITS else key, n_vocab, path, content
        )
        added.append((token_id, *added_token_type(content, bool(token.get("special")))))
    return added


def _checked_id(token_id: Any, n_vocab: int, path: str, text: str) -> int:
    if type(token_id) is int and 0 <= token_id < n_vocab:
        return token_id
    problem = "the model's embedding does not have" if type(token_id) is int else "is not an integer"
    raise VocabularyError(
        f"added token {text!r} has an id that {problem}",
        file=path,
        found=repr(token_id),
        expected=f"0 to {n_vocab - 1}",
        fix="give the model's own tokenizer with --vocab-dir",
    )
