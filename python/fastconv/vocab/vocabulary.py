"""A vocabulary as every layout writes it."""

from __future__ import annotations

from dataclasses import field
from enum import IntEnum

from fastconv.record import record

SPECIAL_KINDS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
LLAMA_IDS = {"bos": 1, "eos": 2, "unk": 0}
"""Where SentencePiece vocabularies of LLaMA have them, and what llama.cpp takes where a file does not say."""

# Scores of tokens that no piece of a SentencePiece model stands behind.
ADDED_SCORE, PADDING_SCORE = -1000.0, -10000.0


class TokenType(IntEnum):
    """Values of GGUF's tokenizer.ggml.token_type; source: llama.h, enum llama_token_type."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@record
class Vocabulary:
    """kind: "spm" (SentencePiece) or "bpe". tokens: UTF-8 as GGUF stores them. scores: of spm. merges and pre: of bpe.

    special_ids: "bos", "eos", "unk", "pad", ... -> token id. infill_ids: "prefix", "suffix", "middle", "eot" of models
    that fill in. add_special: "bos", "eos" ... -> whether the tokenizer adds it. add_space_prefix, chat_template: as
    tokenizer_config.json says; lowercase, strip_accents: as the normalizer does; None where the source is silent.
    n_base: tokens of the tokenizer's own model, which come before the added ones; None where the source does not tell
    them apart.
    """

    kind: str
    tokens: list[bytes]
    types: list[int]
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    pre: str = "default"
    special_ids: dict[str, int] = field(default_factory=dict)
    add_special: dict[str, bool] = field(default_factory=dict)
    add_space_prefix: bool | None = None
    chat_template: str | list[dict[str, str]] | None = None
    n_base: int | None = None
    infill_ids: dict[str, int] = field(default_factory=dict)
    lowercase: bool | None = None
    strip_accents: bool | None = None
