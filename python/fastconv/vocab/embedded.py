"""The vocabulary that a GGUF or GGJT file carries -> Vocabulary. Knows their keys and fields, no tokenizer files.

Source of what GGJT files leave out: llama.cpp, convert.py of 2023 (what it wrote) and convert_llama_ggml_to_gguf.py
(b11434).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from fastconv.checkpoint.checkpoint import Checkpoint
from fastconv.checkpoint.gguf_array import GgufArray
from fastconv.errors import VocabularyError
from fastconv.vocab.vocabulary import ADDED_SCORE, LLAMA_IDS, PADDING_SCORE, TokenType, Vocabulary

_KINDS = {"llama": "spm", "gpt2": "bpe"}
_KIND_OF_KEY = {"unknown": "unk", "seperator": "sep", "padding": "pad"}
_GIVE_TOKENIZER = "give the folder of the model's tokenizer with --vocab-dir"

# Where SentencePiece vocabularies of LLaMA have their special tokens, and their bytes from id 3 on.
_SPECIAL = ((b"<unk>", TokenType.UNKNOWN), (b"<s>", TokenType.CONTROL), (b"</s>", TokenType.CONTROL))
_FIRST_BYTE, _FIRST_PIECE = 3, 259

_ITEMS: dict[str, tuple[type, ...]] = {
    "tokens": (str, bytes),
    "merges": (str,),
    "token_type": (int,),
    "scores": (float,),
}
_Scalar = TypeVar("_Scalar")


def embedded_vocabulary(checkpoint: Checkpoint, n_vocab: int) -> Vocabulary:
    """The vocabulary in a GGUF or GGJT file.

    n_vocab: rows of the model's embedding; missing tokens are padded. Raises VocabularyError for a file without one, of
    an unknown kind, with more tokens than the embedding has rows, or whose tokenizer the file does not state.
    """
    read = _of_gguf if checkpoint.format == "gguf" else _of_ggjt
    vocabulary = read(checkpoint.metadata, checkpoint.path, n_vocab)
    for token_id in range(len(vocabulary.tokens), n_vocab):
        vocabulary.tokens.append(b"[PAD%d]" % token_id)
        vocabulary.types.append(int(TokenType.UNUSED))
        if vocabulary.scores:
            vocabulary.scores.append(PADDING_SCORE)
    return vocabulary


def _check_rows(n_tokens: int, n_vocab: int, path: str) -> None:
    if n_tokens > n_vocab:
        raise VocabularyError(
            "holds more tokens than its embedding has rows", file=path, found=n_tokens, expected=n_vocab
        )


def _of_gguf(values: Mapping[str, Any], path: str, n_vocab: int) -> Vocabulary:
    def value(key: str) -> Any:
        return values.get(f"tokenizer.ggml.{key}")

    kind = _KINDS.get(str(value("model")))
    if kind is None:
        raise VocabularyError(
            "holds a vocabulary of an unknown kind",
            file=path,
            found=str(value("model"))[:80],
            expected=" or ".join(_KINDS),
            fix=_GIVE_TOKENIZER,
        )
    if isinstance(value("tokens"), GgufArray):
        _check_rows(len(value("tokens")), n_vocab, path)
    tokens = [token.encode() if isinstance(token, str) else token for token in _list(value("tokens"), path, "tokens")]
    columns: dict[str, list[Any]] = {"token_type": [int(TokenType.NORMAL)] * len(tokens), "scores": [0.0] * len(tokens)}
    for key in columns:
        if value(key) is not None:
            columns[key] = _list(value(key), path, key)
        if len(columns[key]) != len(tokens):
            raise VocabularyError(
                f"{key} and tokens are of different lengths", file=path, found=len(columns[key]), expected=len(tokens)
            )
    special, added = {}, {}
    for key, found in values.items():
        name = key.removeprefix("tokenizer.ggml.")
        if name.endswith("_token_id") and type(found) is int:
            special[_KIND_OF_KEY.get(name.removesuffix("_token_id"), name.removesuffix("_token_id"))] = found
        elif name.startswith("add_") and name.endswith("_token"):
            added[name.removeprefix("add_").removesuffix("_token")] = bool(found)
    has_prefix = _scalar(values, "tokenizer.ggml.add_space_prefix", int, path)
    return Vocabulary(
        kind,
        tokens,
        columns["token_type"],
        scores=columns["scores"] if kind == "spm" else [],
        merges=_list(value("merges"), path, "merges") if kind == "bpe" else [],
        pre=_scalar(values, "tokenizer.ggml.pre", str, path) or "default",
        special_ids=special,
        add_special=added,
        add_space_prefix=None if has_prefix is None else bool(has_prefix),
        chat_template=_scalar(values, "tokenizer.chat_template", str, path),
    )


def _scalar(values: Mapping[str, Any], key: str, kind: type[_Scalar], path: str) -> _Scalar | None:
    found = values.get(key)
    if found is None or isinstance(found, kind):
        return found
    raise VocabularyError(f"{key} is of the wrong type", file=path, found=repr(found)[:80], fix=_GIVE_TOKENIZER)


def _list(found: Any, path: str, key: str) -> list[Any]:
    kinds = _ITEMS[key]
    items = found.tolist() if isinstance(found, GgufArray) else None
    if items is None or not set(map(type, items)) <= {*kinds}:
        raise VocabularyError(
            f"tokenizer.ggml.{key} is missing or no array of {kinds[0].__name__}", file=path, fix=_GIVE_TOKENIZER
        )
    return items


def _of_ggjt(header: Mapping[str, Any], path: str, n_vocab: int) -> Vocabulary:
    texts: Sequence[bytes] = header["tokens"]
    _check_rows(len(texts), n_vocab, path)
    scores: Sequence[float] | None = header.get("scores")
    if scores is None:
        raise VocabularyError(
            "holds tokens without scores, by which text would be cut differently",
            file=path,
            found="an unversioned ggml file",
            fix=_GIVE_TOKENIZER,
        )
    if len(texts) > _FIRST_BYTE and all(score == -i for i, score in enumerate(scores[:_FIRST_PIECE])):
        raise VocabularyError("holds a vocabulary of byte pairs without its merges", file=path, fix=_GIVE_TOKENIZER)
    tokens, types = [], []
    for token_id, (text, score) in enumerate(zip(texts, scores, strict=True)):
        token, token_type = _spm_token(token_id, text, score)
        tokens.append(token)
        types.append(int(token_type))
    return Vocabulary("spm", tokens, types, scores=list(scores), special_ids=dict(LLAMA_IDS))


def _spm_token(token_id: int, text: bytes, score: float) -> tuple[bytes, TokenType]:
    if token_id < len(_SPECIAL):
        return _SPECIAL[token_id]
    if not text:
        return text, TokenType.CONTROL
    if _FIRST_BYTE <= token_id < _FIRST_PIECE and len(text) == 1:
        return b"<0x%02X>" % text[0], TokenType.BYTE
    if token_id >= _FIRST_PIECE and score == ADDED_SCORE:
        return text, TokenType.USER_DEFINED
    return text.replace(b" ", "\u2581".encode()), TokenType.NORMAL
