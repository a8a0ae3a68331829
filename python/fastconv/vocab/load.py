"""The tokenizer files beside a model -> its Vocabulary, whichever kind they are."""

from __future__ import annotations

import os
from typing import Any

from fastconv.errors import UsageError, VocabularyError
from fastconv.vocab.files import SENTENCEPIECE_MODEL, TOKENIZER_JSON, TokenizerFiles
from fastconv.vocab.sentencepiece import read_pieces
from fastconv.vocab.special_tokens import INFILL_KINDS, SpecialTokens, read_special_tokens
from fastconv.vocab.vocabulary import Vocabulary

# Code Llama's vocabulary size, and where its infill tokens are if no file says so; source: llama.cpp b11434,
# conversion/llama.py (set_vocab).
_CODE_LLAMA_SIZE = 32016
_CODE_LLAMA_INFILL = {"prefix": 32007, "suffix": 32008, "middle": 32009, "eot": 32010}


def load_vocabulary(
    directory: str | os.PathLike[str], n_vocab: int, kind: str | None = None, config: dict[str, Any] | None = None
) -> Vocabulary:
    """The vocabulary of the tokenizer in `directory` (or of a tokenizer file), or of the folder above it.

    n_vocab: rows of the model's embedding. kind: "spm" for tokenizer.model, "bpe" for tokenizer.json, None: the first
    of them that is there. config: the model's config.json; None: the one in `directory`, if there is one. Raises
    VocabularyError for missing and malformed files and for a vocabulary larger than the embedding.
    """
    if kind not in (None, "spm", "bpe"):
        raise UsageError("unknown vocabulary type", found=kind, expected="spm or bpe")
    files = _find(directory, kind)
    if config is None:
        config = files.object("config.json") or {}
    tokenizer_config = files.object("tokenizer_config.json") or {}
    space_prefix = tokenizer_config.get("add_prefix_space")
    common: dict[str, Any] = {"add_space_prefix": space_prefix if isinstance(space_prefix, bool) else None}
    pieces = read_pieces(files, n_vocab) if kind != "bpe" and files.has(SENTENCEPIECE_MODEL) else None
    if pieces is None:
        from fastconv.vocab import bpe

        if not bpe.is_sentencepiece_like(files):
            pairs = bpe.read_byte_pairs(files, n_vocab)
            common |= _special(read_special_tokens(files, config, None))
            common |= _infill(files, config, n_vocab)
            return Vocabulary(
                "bpe", pairs.tokens, pairs.types, merges=pairs.merges, pre=pairs.pre, n_base=pairs.n_base, **common
            )
        pieces = bpe.read_sentencepiece_like(files, n_vocab)
    common |= _special(read_special_tokens(files, config, len(pieces.tokens)))
    common |= _infill(files, config, n_vocab)
    return Vocabulary("spm", pieces.tokens, pieces.types, scores=pieces.scores, n_base=pieces.n_base, **common)


def tokenizer_file(directory: str | os.PathLike[str], kind: str | None = None) -> str:
    """What load_vocabulary reads the tokens from. Raises VocabularyError where there is nothing."""
    files = _find(directory, kind)
    return files.path(SENTENCEPIECE_MODEL if kind != "bpe" and files.has(SENTENCEPIECE_MODEL) else TOKENIZER_JSON)


def _find(directory: str | os.PathLike[str], kind: str | None) -> TokenizerFiles:
    """The folder that holds the tokenizer: the one given, or, as Meta lays its releases out, the one above."""
    wanted = {
        None: (SENTENCEPIECE_MODEL, TOKENIZER_JSON),
        "spm": (SENTENCEPIECE_MODEL, TOKENIZER_JSON),
        "bpe": (TOKENIZER_JSON,),
    }[kind]
    given = TokenizerFiles(directory)
    above = TokenizerFiles(os.path.join(given.directory, os.pardir))
    for files in (given, above):
        if any(files.has(name) for name in wanted):
            return files
    raise VocabularyError(
        "no tokenizer here",
        file=given.directory,
        expected=" or ".join(wanted),
        fix="copy it there, or give its folder with --vocab-dir",
    )


def _special(special: SpecialTokens) -> dict[str, Any]:
    return {
        "special_ids": special.ids,
        "add_special": special.add,
        "chat_template": special.chat_template,
        "lowercase": special.lowercase,
        "strip_accents": special.strip_accents,
    }


def _infill(files: TokenizerFiles, config: dict[str, Any], n_vocab: int) -> dict[str, Any]:
    if n_vocab != _CODE_LLAMA_SIZE:
        return {}
    found = read_special_tokens(files, config, None, INFILL_KINDS).ids
    return {
        "infill_ids": found | {kind: token_id for kind, token_id in _CODE_LLAMA_INFILL.items() if kind not in found}
    }
