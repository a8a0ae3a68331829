"""tokenizer.json -> tokens, types, merges and the name of the pre-tokenizer, as llama.cpp stores them.

Reads the file as transformers' AutoTokenizer would, with `tokenizers` alone. Source of the rules: llama.cpp b11434,
conversion/base.py (get_vocab_base) and gguf-py/gguf/vocab.py (LlamaHfVocab); transformers 4.57
(PreTrainedTokenizerFast).
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastconv.errors import VocabularyError
from fastconv.vocab.files import TOKENIZER_JSON, TokenizerFiles
from fastconv.vocab.guard import check_growth, guarded
from fastconv.vocab.pruned_model import join_merges, pruned
from fastconv.vocab.sentencepiece import Pieces, added_token_type
from fastconv.vocab.vocabulary import PADDING_SCORE, SPECIAL_KINDS, TokenType

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

_PLACEHOLDER_SCORE = -1000.0
_NAMED = tuple(f"{kind}_token" for kind in SPECIAL_KINDS)
_MORE = ("additional_special_tokens", "extra_special_tokens")
# What tokenizer classes assume where tokenizer_config.json is silent.
_CLASS_TOKENS = {
    "LlamaTokenizer": {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
    "GPT2Tokenizer": dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>"),
}
# " do n't" was once spelled "don't" again by this list; transformers still applies it on request.
_CLEANED_UP = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


@dataclass(slots=True)
class BytePairs:
    """Columns of a byte-level vocabulary, one entry per token. pre: llama.cpp's name of the pre-tokenizer."""

    tokens: list[bytes]
    types: list[int]
    n_base: int
    pre: str
    merges: list[str] = field(default_factory=list)


def is_sentencepiece_like(files: TokenizerFiles) -> bool:
    """Whether tokenizer.json is a SentencePiece model converted to BPE, which falls back to byte tokens."""
    found = files.object(TOKENIZER_JSON) or {}
    model, decoder = found.get("model"), found.get("decoder")
    return (
        isinstance(model, dict)
        and model.get("type") == "BPE"
        and bool(model.get("byte_fallback"))
        and isinstance(decoder, dict)
        and decoder.get("type") == "Sequence"
    )


def read_byte_pairs(files: TokenizerFiles, n_vocab: int) -> BytePairs:
    """The byte-level vocabulary of tokenizer.json, padded to the n_vocab rows of the embedding.

    Raises VocabularyError for malformed files, ids from n_vocab on and a pre-tokenizer that llama.cpp does not know.
    """
    with guarded(files.path(TOKENIZER_JSON)):
        tokenizer = _open(files)
        ids = _token_ids(tokenizer, files, n_vocab)
        try:
            pre = _pre_tokenizer_name(tokenizer, files)
        except VocabularyError:
            pre = _pre_tokenizer_name(_open(files, whole=True), files)  # should what was left out have counted
        return _byte_pairs(tokenizer, files, n_vocab, ids, pre)


def _byte_pairs(tokenizer: Tokenizer, files: TokenizerFiles, n_vocab: int, ids: dict[str, int], pre: str) -> BytePairs:
    added = tokenizer.get_added_tokens_decoder()
    cleans_up = bool((files.object("tokenizer_config.json") or {}).get("clean_up_tokenization_spaces"))
    tokens = [f"[PAD{token_id}]" for token_id in range(n_vocab)]
    types = [int(TokenType.UNUSED)] * n_vocab
    normal = int(TokenType.NORMAL)
    for text, token_id in ids.items():
        tokens[token_id] = text
        types[token_id] = normal
    for token_id, token in added.items():
        if ids.get(token.content) == token_id:
            text = token.content if token.normalized else _normalized(tokenizer, token.content, cleans_up)
            tokens[token_id], types[token_id] = added_token_type(text, token.special)
    n_base = tokenizer.get_vocab_size(with_added_tokens=False)
    return BytePairs(list(map(str.encode, tokens)), types, n_base, pre, _merges(files))


def read_sentencepiece_like(files: TokenizerFiles, n_vocab: int) -> Pieces:
    """The vocabulary of a SentencePiece model that only tokenizer.json holds, where no scores are left.

    Padded to n_vocab, without which llama.cpp would not load the model. Raises VocabularyError as `read_byte_pairs`.
    """
    with guarded(files.path(TOKENIZER_JSON)):
        return _pieces(_open(files), files, n_vocab)


def _pieces(tokenizer: Tokenizer, files: TokenizerFiles, n_vocab: int) -> Pieces:
    ids = _token_ids(tokenizer, files, n_vocab)
    n_base = tokenizer.get_vocab_size(with_added_tokens=False)
    special = {tokenizer.token_to_id(name) for name in _named_tokens(files, _NAMED + _MORE)}
    base = {token_id: text for text, token_id in ids.items() if token_id < n_base}
    added = [text for text, token_id in sorted(ids.items(), key=lambda item: item[1]) if token_id >= n_base]
    tokens, types = [], []
    for token_id in range(n_base):
        text = base.get(token_id, f"[PAD{token_id}]")
        tokens.append(text.encode())
        if re.fullmatch("<0x[0-9A-Fa-f]{2}>", text):
            types.append(int(TokenType.BYTE))
        else:
            types.append(int(TokenType.CONTROL if token_id in special else TokenType.NORMAL))
    for text in added:
        tokens.append(text.encode())
        types.append(int(TokenType.CONTROL if ids[text] in special else TokenType.USER_DEFINED))
    scores = [_PLACEHOLDER_SCORE] * len(tokens)
    padding = range(len(tokens), n_vocab)
    tokens += [b"[PAD%d]" % token_id for token_id in padding]
    types += [int(TokenType.UNUSED)] * len(padding)
    scores += [PADDING_SCORE] * len(padding)
    return Pieces(tokens, scores, types, n_base)


def _open(files: TokenizerFiles, *, whole: bool = False) -> Tokenizer:
    """tokenizer.json with the tokens that tokenizer_config.json adds or calls special.

    Unless it has to be whole it knows what llama.cpp's text and added tokens need, and how many tokens there are.
    """
    from tokenizers import AddedToken, Tokenizer, pre_tokenizers

    path = files.path(TOKENIZER_JSON)
    found = files.object(TOKENIZER_JSON) or {}
    model = found.get("model")
    model_type = model.get("type") if isinstance(model, dict) else None
    if not isinstance(model, dict) or model_type != "BPE":
        raise VocabularyError(
            "holds another kind of model than LLaMA's", file=path, found=str(model_type), expected="BPE"
        )
    check_text = _known_pre_tokenizers()["check_text"]
    texts = [check_text, found.get("added_tokens")]
    texts += [files.object(name) for name in ("tokenizer_config.json", "added_tokens.json", "special_tokens_map.json")]
    check_growth(path, found, len(json.dumps(texts)))
    added = _added_texts(files)
    names = _named_tokens(files, _NAMED + _MORE)
    join_merges(model)
    try:
        small = None if whole else pruned(found, [check_text, *added], [*added, *names])
        tokenizer = Tokenizer.from_file(path) if small is None else Tokenizer.from_str(small)
    except Exception as error:
        if type(error) is not Exception:
            raise
        if not whole:
            return _open(files, whole=True)  # the library is to speak of the lines and columns of the file
        # All that `tokenizers` raises for a malformed file.
        raise VocabularyError("is not a tokenizer", file=path, found=str(error)) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    known = {repr(token) for token in tokenizer.get_added_tokens_decoder().values()}
    config = files.object("tokenizer_config.json") or {}
    tokenizer.add_tokens([token for token in _configured_tokens(files) if repr(token) not in known])
    present = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    tokenizer.add_tokens([AddedToken(name, special=True) for name in names if name not in present])
    if isinstance(tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel):
        tokenizer.pre_tokenizer.add_prefix_space = bool(config.get("add_prefix_space", False))
    if _tokenizer_class(config) == "LlamaTokenizer":
        _set_llama_template(tokenizer, files, config)
    return tokenizer


def _added_texts(files: TokenizerFiles) -> list[str]:
    """Contents of added tokens wherever they stand, before anything is known of those files but that they are JSON."""
    listed = (files.object(TOKENIZER_JSON) or {}).get("added_tokens")
    decoder = (files.object("tokenizer_config.json") or {}).get("added_tokens_decoder")
    tokens = [*(listed if isinstance(listed, list) else ()), *(decoder.values() if isinstance(decoder, dict) else ())]
    contents = [token.get("content") for token in tokens if isinstance(token, dict)]
    return [text for text in (*contents, *(files.object("added_tokens.json") or {})) if isinstance(text, str)]


def _tokenizer_class(config: dict[str, Any]) -> str:
    name = config.get("tokenizer_class")
    return name.removesuffix("Fast") if isinstance(name, str) else ""


def _configured_tokens(files: TokenizerFiles) -> list[AddedToken]:
    """The added tokens that tokenizer_config.json lists or, where it is older than that, the other files; by id."""
    from tokenizers import AddedToken

    path = files.path("tokenizer_config.json")
    decoder = (files.object("tokenizer_config.json") or {}).get("added_tokens_decoder")
    special = set(_named_tokens(files, _NAMED))
    if decoder is None:
        path = files.path("added_tokens.json")
        decoder = {
            str(token_id): {"content": text, "normalized": text not in special}
            for text, token_id in (files.object("added_tokens.json") or {}).items()
        }
        # Those of tokenizer.json have been read by `tokenizers`, which takes integers only.
        listed = (files.object(TOKENIZER_JSON) or {}).get("added_tokens") or []
        decoder |= {str(token.get("id")): token for token in listed}
    if not isinstance(decoder, dict):
        raise VocabularyError(
            "added_tokens_decoder has the wrong JSON value",
            file=path,
            found=type(decoder).__name__,
            expected="an object",
        )
    tokens = []
    for key, token in sorted(decoder.items(), key=lambda item: (len(item[0]), item[0])):
        if not isinstance(token, dict) or not isinstance(token.get("content"), str):
            raise VocabularyError(f"has an added token without content: id {key}", file=path)
        if not key.isdecimal():
            raise VocabularyError(
                f"added token {token['content']!r} has an id that is not an integer",
                file=path,
                found=key,
                fix="give the model's own tokenizer with --vocab-dir",
            )
        flags = {flag: bool(token.get(flag)) for flag in ("single_word", "lstrip", "rstrip", "special")}
        flags["normalized"] = bool(token.get("normalized", not flags["special"]))
        flags["special"] |= token["content"] in special
        tokens.append(AddedToken(token["content"], **flags))
    return tokens


def _named_tokens(files: TokenizerFiles, keys: tuple[str, ...]) -> list[str]:
    """Contents of the tokens that the configuration calls bos, eos and so on, by the keys that name them."""
    config = files.object("tokenizer_config.json") or {}
    named = _CLASS_TOKENS.get(_tokenizer_class(config), {}) | config
    if "added_tokens_decoder" not in config:
        named |= files.object("special_tokens_map.json") or {}
    found: list[Any] = []
    for key in keys:
        value = named.get(key)
        if key in _NAMED:
            found.append(value)
        elif isinstance(value, dict | list):
            found += value.values() if isinstance(value, dict) else value
    contents = [token.get("content") if isinstance(token, dict) else token for token in found]
    return list(dict.fromkeys(content for content in contents if isinstance(content, str) and content))


def _set_llama_template(tokenizer: Tokenizer, files: TokenizerFiles, config: dict[str, Any]) -> None:
    """LlamaTokenizerFast puts its own post-processor in place of the file's."""
    from tokenizers import processors

    tokens: dict[str, tuple[str, int]] = {}
    for kind, default in (("bos", True), ("eos", False)):
        if not config.get(f"add_{kind}_token", default):
            continue
        token = config.get(f"{kind}_token", _CLASS_TOKENS["LlamaTokenizer"][f"{kind}_token"])
        content = token.get("content") if isinstance(token, dict) else token
        token_id = tokenizer.token_to_id(content) if isinstance(content, str) else None
        if not isinstance(content, str) or token_id is None:
            raise VocabularyError(
                f"add_{kind}_token asks for a token that is not in the vocabulary",
                file=files.path("tokenizer_config.json"),
                found=content,
            )
        tokens[kind] = (content, token_id)
    sequences = []
    for index, name in enumerate("AB"):
        parts = [f"{tokens['bos'][0]}:{index}"] if "bos" in tokens else []
        parts.append(f"${name}:{index}")
        parts += [f"{tokens['eos'][0]}:{index}"] if "eos" in tokens else []
        sequences.append(" ".join(parts))
    try:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=sequences[0], pair=" ".join(sequences), special_tokens=list(tokens.values())
        )
    except ValueError as error:  # templates are parted at blanks and colons
        raise VocabularyError(
            "names a bos or eos token that no template can hold",
            file=files.path("tokenizer_config.json"),
            found=str(error),
        ) from None


def _token_ids(tokenizer: Tokenizer, files: TokenizerFiles, n_vocab: int) -> dict[str, int]:
    ids = dict((files.object(TOKENIZER_JSON) or {})["model"]["vocab"])
    ids |= {token.content: token_id for token_id, token in tokenizer.get_added_tokens_decoder().items()}
    if not ids:
        raise VocabularyError("holds no tokens", file=files.path(TOKENIZER_JSON))
    largest = max(ids.values())
    if largest >= n_vocab:
        text = next(text for text, token_id in ids.items() if token_id == largest)
        raise VocabularyError(
            f"is larger than the model's embedding: token {text!r} has an id that it does not have",
            file=files.path(TOKENIZER_JSON),
            found=largest,
            expected=f"at most {n_vocab - 1}",
            fix="give the model's own tokenizer with --vocab-dir",
        )
    return ids


def _normalized(tokenizer: Tokenizer, text: str, cleans_up: bool) -> str:
    decoded: str = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids, skip_special_tokens=False)
    if cleans_up:
        for spaced in _CLEANED_UP:
            decoded = decoded.replace(spaced, "'" if spaced == " ' " else spaced[1:])
    return decoded


def _pre_tokenizer_name(tokenizer: Tokenizer, files: TokenizerFiles) -> str:
    """llama.cpp tells pre-tokenizers apart by the ids they make of one text; source: its pull request 6920."""
    known = _known_pre_tokenizers()
    ids = tokenizer.encode(known["check_text"]).ids
    digest = hashlib.sha256(str(ids).encode()).hexdigest()
    name: str | None = known["names"].get(digest)
    if name is None:
        raise VocabularyError(
            "pre-tokenizer is not known to llama.cpp",
            file=files.path(TOKENIZER_JSON),
            found=f"check {digest}",
            fix="use the tokenizer of the original model, or a fastconv that follows a newer llama.cpp",
        )
    return name


def _known_pre_tokenizers() -> dict[str, Any]:
    """check_text; names: llama.cpp's name by the digest of the ids of that text."""
    from importlib import resources

    text = resources.files("fastconv.vocab").joinpath("pre_tokenizers.json").read_text("utf-8")
    known: dict[str, Any] = json.loads(text)
    return known


def _merges(files: TokenizerFiles) -> list[str]:
    """Pairs as "left right"; spaces inside a part are written as byte-level BPE writes them."""
    path = files.path(TOKENIZER_JSON)
    merges = (files.object(TOKENIZER_JSON) or {})["model"].get("merges")
    if isinstance(merges, list) and merges:
        if set(map(type, merges)) == {str}:
            return merges
        if all(isinstance(pair, list) and len(pair) == 2 and all(isinstance(p, str) for p in pair) for pair in merges):
            return [_pair(*pair) for pair in merges]
        raise VocabularyError("has merges of an unknown form", file=path, expected="strings or pairs")
    if files.has("merges.txt"):
        lines = [line.split() for line in files.text("merges.txt").splitlines()]
        start = 1 if lines and lines[0][:1] and lines[0][0].startswith("#") else 0
        return [" ".join(parts) for parts in lines[start:] if len(parts) == 2]
    raise VocabularyError("has no merges", file=path, fix="put merges.txt beside it")


def _pair(left: str, right: str) -> str:
    return f"{left.replace(' ', 'Ġ')} {right.replace(' ', 'Ġ')}"
