"""The tokenizer that a GGUF or GGML file carries, as the files of a Hugging Face folder. Knows tokens, no tensors.

tokenizer.json cuts text as llama.cpp cuts it; tokenizer.model holds SentencePiece's scores as well. What cannot be said
faithfully is not written, and a note says why. Sources: llama.cpp b11434, src/llama-vocab.cpp; tokenizers 0.22,
tokenizer.json; sentencepiece 0.2, sentencepiece_model.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from fastconv.architecture.spec import NamedModel
from fastconv.checkpoint.checkpoint import Checkpoint
from fastconv.errors import VocabularyError
from fastconv.layout.beside import copied_files, json_file, tokenizer_notes
from fastconv.layout.laid_out import LaidOut
from fastconv.request import ConvertRequest
from fastconv.vocab.embedded import embedded_vocabulary
from fastconv.vocab.files import TOKENIZER_JSON
from fastconv.vocab.vocabulary import ADDED_SCORE, LLAMA_IDS, SPECIAL_KINDS, TokenType, Vocabulary

_SPACE = "\u2581"

# How text is cut before byte pairs are joined, by the name in tokenizer.ggml.pre: of those whose original tokenizers
# are known to do nothing else to the text.
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CASED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_LLAMA3 = (_CASED + r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_PATTERNS: dict[str, tuple[str, ...]] = {
    "gpt-2": (_WORDS,),
    "starcoder": (r"\p{N}", _WORDS),
    "smollm": (r"\p{N}", _WORDS),
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama-bpe": _LLAMA3,
    "smaug-bpe": _LLAMA3,
    "tekken": _TEKKEN,
}
# A piece of text that is a token is taken as it is; and bos is added where the file does not say.
_WHOLE_WORDS = ("llama3", "llama-v3", "llama-bpe", "tekken")


def files_beside(
    checkpoint: Checkpoint, model: NamedModel, request: ConvertRequest, but: Collection[str] = ()
) -> tuple[list[LaidOut], tuple[str, ...]]:
    """The small files of the model's folder, with the tokenizer that its weights carry where none stands beside them;
    and what users of the folder must know. but: names to leave out."""
    copied = copied_files(request.vocab_dir or model.directory, but)
    notes = tokenizer_notes(copied)
    if not notes or request.vocab_dir is not None or not checkpoint.is_self_contained:
        return copied, notes
    try:
        made = _tokenizer_files(checkpoint, model.tensors[model.per_token[0]].shape[0])
    except VocabularyError as error:
        return copied, (f"no tokenizer was written: {error}",)
    names = {file.name for file in made}
    return [*made, *(file for file in copied if file.name not in names)], ()


def _tokenizer_files(checkpoint: Checkpoint, n_vocab: int) -> tuple[LaidOut, ...]:
    vocabulary = embedded_vocabulary(checkpoint, n_vocab)
    tokens = _texts(vocabulary, checkpoint.path)
    make = _of_pieces if vocabulary.kind == "spm" else _of_byte_pairs
    return (*make(vocabulary, tokens, checkpoint.path), _config(vocabulary, tokens))


def _texts(vocabulary: Vocabulary, path: str) -> list[str]:
    """Of every token, those at the end left out that only pad the embedding."""
    n_tokens = len(vocabulary.tokens)
    while n_tokens and vocabulary.types[n_tokens - 1] == TokenType.UNUSED:
        n_tokens -= 1
    try:
        texts = [token.decode() for token in vocabulary.tokens[:n_tokens]]
    except UnicodeDecodeError as error:
        raise VocabularyError("holds a token that is not UTF-8", file=path, found=repr(error.object)[:80]) from None
    if len(set(texts)) != n_tokens or "" in texts:
        raise VocabularyError("holds a token twice, or an empty one", file=path)
    return texts


def _of_byte_pairs(vocabulary: Vocabulary, tokens: list[str], path: str) -> tuple[LaidOut, ...]:
    patterns = _PATTERNS.get(vocabulary.pre)
    if patterns is None:
        raise VocabularyError(
            "cuts text in a way that is not known here", file=path, found=vocabulary.pre, expected=", ".join(_PATTERNS)
        )
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    isolated = {"type": "Split", "behavior": "Isolated", "invert": False}
    cuts = [isolated | {"pattern": {"Regex": pattern}} for pattern in patterns]
    merges = [_halves(merge, path) for merge in vocabulary.merges]
    known = set(tokens)
    odd = next((pair for pair in merges if not known >= {*pair, "".join(pair)}), None)
    if odd is not None:
        raise VocabularyError("merges what are no tokens", file=path, found=" ".join(odd)[:80])
    model = {
        "unk_token": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": vocabulary.pre in _WHOLE_WORDS,
        "vocab": {token: token_id for token_id, token in enumerate(tokens)},
        "merges": merges,
    }
    pre_tokenizer = {"type": "Sequence", "pretokenizers": [*cuts, byte_level]}
    return (_tokenizer_json(vocabulary, tokens, None, pre_tokenizer, byte_level, model),)


def _halves(merge: str, path: str) -> list[str]:
    halves = merge.split(" ")
    if len(halves) != 2:
        raise VocabularyError("holds a merge that is no pair", file=path, found=repr(merge)[:80])
    return halves


def _of_pieces(vocabulary: Vocabulary, tokens: list[str], path: str) -> tuple[LaidOut, ...]:
    has_prefix = vocabulary.add_space_prefix is not False
    texts = [_as_typed(text, kind) for text, kind in zip(tokens, vocabulary.types, strict=False)]
    unknown = [text for text, kind in zip(tokens, vocabulary.types, strict=False) if kind == TokenType.UNKNOWN]
    if len(unknown) != 1 or len(set(texts)) != len(texts):
        raise VocabularyError("has no single token for what is unknown, or a token twice", file=path)
    escape = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    normalizers = [{"type": "Prepend", "prepend": _SPACE}, escape] if has_prefix else [escape]
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if has_prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    model = {
        "unk_token": unknown[0],
        "fuse_unk": True,
        "byte_fallback": TokenType.BYTE in vocabulary.types,
        "ignore_merges": False,
        "vocab": {text: token_id for token_id, text in enumerate(texts)},
        "merges": _merges_of_scores(vocabulary, tokens, path),
    }
    normalizer = {"type": "Sequence", "normalizers": normalizers}
    decoder = {"type": "Sequence", "decoders": decoders}
    return (
        _tokenizer_json(vocabulary, texts, normalizer, None, decoder, model),
        LaidOut(
            ((0, proto := _sentencepiece_model(vocabulary, tokens, has_prefix)),),
            (),
            len(proto),
            name="tokenizer.model",
        ),
    )


def _as_typed(text: str, kind: int) -> str:
    """Added tokens are looked for in the text as it was typed, before spaces are escaped."""
    return text.replace(_SPACE, " ") if kind == TokenType.USER_DEFINED else text


def _merges_of_scores(vocabulary: Vocabulary, tokens: list[str], path: str) -> list[list[str]]:
    """Pairs in the order of joining: of several that are possible SentencePiece joins the one of the highest score."""
    scores = {
        token: score
        for token, score, kind in zip(tokens, vocabulary.scores, vocabulary.types, strict=False)
        if kind == TokenType.NORMAL
    }
    pairs = [(score, pair) for token, score in scores.items() for pair in _splits(token, scores)]
    # Of the same score are runs of spaces at most, which grow from the left: with the longest left half first.
    letters: dict[float, set[str]] = {}
    owners: dict[float, str] = {}
    for score, (left, right) in pairs:
        letters.setdefault(score, set()).update(left, right)
        if owners.setdefault(score, left + right) != left + right and len(letters[score]) > 1:
            raise VocabularyError(
                "has tokens of the same score, so it is open which are joined first",
                file=path,
                found=f"{owners[score]} and {left}{right}",
                fix="copy the model's tokenizer",
            )
    pairs.sort(key=lambda found: (-found[0], -len(found[1][0]), -len(found[1][1])))
    return [list(pair) for _, pair in pairs]


def _splits(token: str, known: Iterable[str]) -> Iterator[tuple[str, str]]:
    for at in range(1, len(token)):
        if token[:at] in known and token[at:] in known:
            yield token[:at], token[at:]


def _tokenizer_json(
    vocabulary: Vocabulary,
    tokens: list[str],
    normalizer: dict[str, Any] | None,
    pre_tokenizer: dict[str, Any] | None,
    decoder: dict[str, Any],
    model: dict[str, Any],
) -> LaidOut:
    added = [{"id": token_id} | token for token_id, token in _added(vocabulary, tokens).items()]
    value = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": _template(vocabulary, tokens),
        "decoder": decoder,
        "model": {"type": "BPE", "dropout": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
        | model,
    }
    return json_file(TOKENIZER_JSON, value)


def _added(vocabulary: Vocabulary, tokens: list[str]) -> dict[int, dict[str, Any]]:
    """Tokens that are looked for in the text before anything else."""
    return {
        token_id: {"content": _as_typed(token, kind)}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        | {"special": kind != TokenType.USER_DEFINED}
        for token_id, (token, kind) in enumerate(zip(tokens, vocabulary.types, strict=False))
        if kind in (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED)
    }


def _adds(vocabulary: Vocabulary, kind: str) -> bool:
    """Whether a token begins or ends every text: as stated, else as llama.cpp assumes."""
    by_default = kind == "bos" and (vocabulary.kind == "spm" or vocabulary.pre in _WHOLE_WORDS)
    return vocabulary.add_special.get(kind, by_default)


def _ids(vocabulary: Vocabulary) -> dict[str, int]:
    return (LLAMA_IDS if vocabulary.kind == "spm" else {}) | vocabulary.special_ids


def _named(vocabulary: Vocabulary, tokens: list[str]) -> dict[str, tuple[int, str]]:
    """(id, text) of the special tokens: as stated, else as llama.cpp assumes."""
    stated = _ids(vocabulary)
    ids = {kind: stated.get(kind, -1) for kind in SPECIAL_KINDS}
    return {kind: (token_id, tokens[token_id]) for kind, token_id in ids.items() if 0 <= token_id < len(tokens)}


def _template(vocabulary: Vocabulary, tokens: list[str]) -> dict[str, Any]:
    named = {kind: token for kind, token in _named(vocabulary, tokens).items() if kind in ("bos", "eos")}
    around = {kind: token for kind, token in named.items() if _adds(vocabulary, kind)}

    def sequence(name: str, type_id: int) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = [{"Sequence": {"id": name, "type_id": type_id}}]
        for kind, (_, text) in around.items():
            special = {"SpecialToken": {"id": text, "type_id": type_id}}
            parts = [special, *parts] if kind == "bos" else [*parts, special]
        return parts

    return {
        "type": "TemplateProcessing",
        "single": sequence("A", 0),
        "pair": [*sequence("A", 0), *sequence("B", 1)],
        "special_tokens": {
            text: {"id": text, "ids": [token_id], "tokens": [text]} for token_id, text in around.values()
        },
    }


def _config(vocabulary: Vocabulary, tokens: list[str]) -> LaidOut:
    named = {f"{kind}_token": text for kind, (_, text) in _named(vocabulary, tokens).items()}
    adds = {f"add_{kind}_token": _adds(vocabulary, kind) for kind in ("bos", "eos")}
    value: dict[str, Any] = {
        # The class that takes tokenizer.json as it is; others put rules of their own in place of the file's.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        # Those that tokenizer.model holds under another kind, or not at all.
        "added_tokens_decoder": {
            str(token_id): token
            for token_id, token in _added(vocabulary, tokens).items()
            if vocabulary.kind == "bpe" or vocabulary.scores[token_id] == ADDED_SCORE or not token["special"]
        },
        **named,
        **adds,
    }
    if vocabulary.add_space_prefix is not None:
        value["add_prefix_space"] = vocabulary.add_space_prefix
    if vocabulary.chat_template is not None:
        value["chat_template"] = vocabulary.chat_template
    return json_file("tokenizer_config.json", value)


def _sentencepiece_model(vocabulary: Vocabulary, tokens: list[str], has_prefix: bool) -> bytes:
    """ModelProto: pieces, the kind of model and how text is normalized, which is not at all but for spaces."""
    pieces = b"".join(
        _field(1, _field(1, token.encode()) + struct.pack("<Bf", 2 << 3 | 5, score) + _field(3, kind))
        for token, score, kind in zip(tokens, vocabulary.scores, vocabulary.types, strict=False)
    )
    byte_pairs = 2
    trainer = _field(3, byte_pairs) + _field(4, len(tokens)) + _field(35, int(TokenType.BYTE in vocabulary.types))
    for kind, (number, text_number) in {"unk": (40, 45), "bos": (41, 46), "eos": (42, 47), "pad": (43, 48)}.items():
        token_id = _ids(vocabulary).get(kind, -1)
        if kind == "unk":
            token_id = vocabulary.types.index(TokenType.UNKNOWN)
        if 0 <= token_id < len(tokens):
            trainer += _field(number, token_id) + _field(text_number, tokens[token_id].encode())
        else:
            trainer += _field(number, -1)
    normalizer = _field(1, b"identity") + _field(3, int(has_prefix)) + _field(4, 0) + _field(5, 1)
    return pieces + _field(2, trainer) + _field(3, normalizer)


def _field(number: int, value: int | bytes) -> bytes:
    """One field of Protocol Buffers: bytes with their length, or a number."""
    if isinstance(value, bytes):
        return _varint(number << 3 | 2) + _varint(len(value)) + value
    return _varint(number << 3) + _varint(value % (1 << 64))


def _varint(value: int) -> bytes:
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    digits.append(value)
    return bytes(digits)
